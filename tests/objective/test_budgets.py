from pathlib import Path

import pytest
import torch
from tiny_studies import adapted, asks, by_cell, kept_of, make_objective, make_spec, make_task, measure, search
from torch import nn

from pipeline.adapt.contract import blank, stored_model, trainable_counts
from pipeline.adapt.methods.lora import Lora
from pipeline.cell import Cell
from pipeline.config.registry import ALLOCATIONS
from pipeline.config.study_file import parse_spec
from pipeline.errors import SpecError
from pipeline.export import selection as export
from pipeline.export.checkpoint import load, read_card
from pipeline.objective.allocation import is_lossy, layers_of, spectrum, spread
from pipeline.objective.allocations.contract import Cost, Layer
from pipeline.run.planned_sizes import plan_rank
from pipeline.space import cells, middle

WAYS = [allocation.name for allocation in ALLOCATIONS]


def allocated(by="gain", unit="bytes", **search):
    return make_spec(allocation={"by": by, "unit": unit}, **search)


@pytest.mark.parametrize("factors", ["float32", "float16", "int8"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("by", WAYS)
def test_the_adapter_as_it_is_stored_fits_the_budget_and_nearly_fills_it(by, adapter, factors):
    combination = {"adapter": {"method": adapter, "factors": factors}}
    spec = allocated(by, ranks=[300, 500], combination=combination)
    combination = make_objective(spec).combination
    for budget in spec.search.ranks:
        begun = blank(combination.adapter, combination.compressed, combination.layer_ranks(budget))
        bits = stored_model(combination.adapter, combination.compressed, begun).adapter_bits
        assert budget / 2 < sum(bits.values()) / 8 <= budget
        assert sum(bits.values()) // 8 == combination.facts(budget).size.bytes - combination.compressed_size.bytes


@pytest.mark.parametrize("adapter", ["lora", {"method": "lora", "bias": True}, "dora"])
def test_a_budget_of_parameters_counts_what_is_trained(adapter):
    combination = make_objective(
        allocated(unit="parameters", ranks=[100], combination={"adapter": adapter})
    ).combination
    begun = blank(combination.adapter, combination.compressed, combination.layer_ranks(100))
    counts = trainable_counts(combination.adapter, combination.compressed.weights, begun)
    assert sum(counts.values()) == combination.facts(100).trainable <= 100


def test_an_adapter_whose_ranks_have_no_cost_of_their_own_is_refused(monkeypatch):
    def shared(self, parameters):
        return {"shared.lora_A": next(iter(parameters.values())), **parameters}

    monkeypatch.setattr(Lora, "to_tensors", shared)
    with pytest.raises(SpecError, match=r"cost of its own; adapter 'lora' is not one"):
        make_objective(allocated(ranks=[300]))


def test_ranks_are_spread_by_what_compression_lost_or_by_the_weights_where_it_lost_nothing():
    lossy = make_objective(allocated(ranks=[600])).combination
    assert is_lossy(lossy.compressed)
    dense = make_objective(allocated(ranks=[600], combination={"compression": "none"})).combination
    assert not is_lossy(dense.compressed)
    stats = dense.statistics.of(dense.targets)
    expected = spectrum(make_task().model.fc1.weight.detach(), stats["fc1"])
    layers = layers_of(dense.adapter, dense.compressed, dense.statistics, dense.search.allocation)
    torch.testing.assert_close(layers["fc1"].spectrum, expected)
    assert dense.layer_ranks(600)


@pytest.mark.parametrize("budget", [63, 1601])
def test_a_budget_that_cannot_be_spread_is_refused_before_anything_is_compressed(budget, monkeypatch):
    monkeypatch.setattr("pipeline.objective.combination.Combination.compressed", None)
    with pytest.raises(SpecError, match=rf"budget {budget}.*allowed: 64 to 1600"):
        make_objective(allocated(ranks=[200, budget]))


def test_a_budget_counts_the_layers_that_have_a_rank_of_their_own():
    own = {"match": "fc1", "rank": 2}
    combination = make_objective(allocated(ranks=[400], combination={"targets": ["*", own]})).combination
    assert combination.layer_ranks(400) == {"fc1": 2, "fc2": 2}
    with pytest.raises(SpecError, match=r"budget 200.*too small.*allowed: 288 to 480"):
        make_objective(allocated(ranks=[200], combination={"targets": ["*", own]}))


def test_an_allocation_that_nothing_is_left_to_is_refused():
    with pytest.raises(SpecError, match="every target has one"):
        make_objective(allocated(ranks=[400], combination={"targets": [{"match": "*", "rank": 2}]}))
    with pytest.raises(SpecError, match=r"compression took nothing.*none"):
        spread({"none": Layer(Cost(3, 1, 2), torch.zeros(2))}, ALLOCATIONS.parse("energy"), 4, {})


def test_an_adapter_without_ranks_takes_no_notice_of_an_allocation():
    combination = make_objective(allocated(ranks=[1], combination={"adapter": "full"})).combination
    assert [cell.rank for cell in cells(combination.search)] == [0]
    assert combination.facts(0).trainable > 0


def test_a_misspelt_way_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match=r"search.allocation = .*did you mean 'energy'"):
        allocated("enrgy")
    parse_spec(make_spec().model_dump(mode="json"), "dumped")


FEW = 80
"""Bytes that the smaller layer's first rank fits in, and no rank of the larger one."""


def test_a_layer_that_gets_nothing_of_a_budget_has_no_start_no_tensors_and_no_operations():
    objective = make_objective(allocated(ranks=[FEW, 600]))
    assert (set(objective.combination.layer_ranks(FEW)), set(objective.combination.layer_ranks(600))) == (
        {"fc2"},
        {"fc1", "fc2"},
    )
    for cell in cells(objective.combination.search):
        values = middle(cell, objective.combination.search, objective.combination.adapter)
        starts, lane = objective.combination.starts(values, 0), objective.lane(values)
        ranks = objective.combination.layer_ranks(cell.rank)
        assert {name: len(start.A) for name, start in starts.items()} == ranks
        assert {name.partition(".")[0] for name in lane.parameters} == set(ranks)
    macs = (
        objective.combination.facts(FEW).macs
        - make_objective(make_spec(combination={"adapter": "none"})).combination.facts(0).macs
    )
    assert macs == 12 + 4
    plan = plan_rank(objective.combination, FEW)
    assert (plan["spread"], plan["clipped"]) == ({"fc1": 0, "fc2": 1}, {})


def test_nested_starts_are_prefixes_of_the_highest_rank_of_each_layer():
    spec = allocated(ranks=[FEW, 300, 900], inits=["svd"])
    together = make_objective(spec).combination
    for budget in (900, 300, FEW):
        alone = make_objective(allocated(ranks=[budget], inits=["svd"])).combination
        values = middle(Cell(budget, "svd"), alone.search, alone.adapter)
        for name, start in alone.starts(values, 0).items():
            own = together.starts(values, 0)[name]
            torch.testing.assert_close(own.B @ own.A, start.B @ start.A)


def test_a_layers_random_start_is_the_same_whichever_others_are_adapted():
    combination = make_objective(allocated(ranks=[FEW, 300], inits=["paper"])).combination
    few, more = (
        combination.starts(middle(Cell(budget, "paper"), combination.search, combination.adapter), 5)["fc2"]
        for budget in (FEW, 300)
    )
    assert not torch.equal(few.A, torch.zeros_like(few.A))
    torch.testing.assert_close(few.A[0], more.A.flatten()[:12])


def test_budgets_are_searched_as_ranks_are_and_cells_that_adapt_other_layers_share_no_pass(storage, tmp_path: Path):
    spec = allocated(ranks=[FEW, 300, 600], queued=2)
    objective = make_objective(spec)
    study = search(storage, spec, objective=objective, cohort=16)
    found = by_cell(study.trials)
    assert {cell.rank for cell in found} == {FEW, 300, 600}
    assert all(len(own) == spec.search.trials for own in found.values())
    assert sum(origin == "score" for own in asks(study).values() for origin, _ in own) == 2
    for trial in study.trials:
        assert trial.user_attrs["trainable"] == objective.combination.facts(trial.params["rank"]).trainable
    best = max((t for t in study.trials if t.params["rank"] == FEW and t.value), key=lambda t: (t.value, -t.number))
    cell = Cell(FEW, best.params["init"])
    parameters = kept_of(spec).load(cell, best.number)
    whole = adapted(objective, parameters, best.params["alpha"])
    correct, images = measure(whole, objective.combination.task.val)
    assert best.value == correct / images


def test_a_checkpoint_without_an_adapter_on_some_layer_is_exported_and_loaded(storage, tmp_path: Path):
    spec = allocated(ranks=[FEW, 600], trials=3, sampler={"startup": 2}, inits=["svd"], pruner={"method": "none"})
    objective = make_objective(spec)
    study = search(storage, spec, objective=objective)
    for trial in study.trials[:2]:
        folder = export.save(objective, trial, tmp_path / f"checkpoint-{trial.number}", force=True)
        card = read_card(folder)
        assert card["method"]["ranks"] == objective.combination.layer_ranks(trial.params["rank"])
        assert card["size"]["tensor_bytes"] == objective.combination.facts(trial.params["rank"]).size.bytes
        loaded = load(folder, type(objective.combination.task.model)())
        correct, _ = measure(loaded, objective.combination.task.test)
        assert card["accuracy"]["recovered"]["test"]["correct"] == correct


class Shallow(nn.Module):
    """Convolutions before the head, so that what comes before the first adapted layer depends on the budget."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x.reshape(-1, 1, 4, 4))).mean((2, 3)))


def test_each_set_of_adapted_layers_has_a_cut_of_its_own():
    spec = allocated(by="effective_rank", ranks=[60, 250])
    objective = make_objective(spec, make_task(Shallow))
    few, all_ = (objective.bases.of(Cell(budget, "svd")) for budget in spec.search.ranks)
    assert few is not all_
    assert objective.bases.shared == [few, all_]
    assert objective.bases.common is all_
    assert objective.bases.of(Cell(60, "paper")) is few
