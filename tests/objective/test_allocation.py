import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_studies import adapted, asks, by_cell, kept_of, make_objective, make_spec, make_task, measure, search
from torch import nn

from pipeline.adapt.contract import blank, stored_model, trainable_counts
from pipeline.adapt.methods.lora import Lora
from pipeline.cell import Cell
from pipeline.compress.contract import LayerStats
from pipeline.compress.spectrum import effective_rank
from pipeline.config.registry import ALLOCATIONS
from pipeline.config.study_file import parse_spec
from pipeline.errors import SpecError
from pipeline.export import selection as export
from pipeline.export.checkpoint import load, read_card
from pipeline.objective.allocation import (
    is_lossy,
    refuse_budgets,
    spectrum,
    spread,
)
from pipeline.objective.allocations.contract import Cost, Layer
from pipeline.run.estimate import plan_rank
from pipeline.space import cells, middle

WAYS = [allocation.name for allocation in ALLOCATIONS]


@st.composite
def layers(draw):
    """A few layers whose first rank may cost more than the next."""
    made = {}
    for place in range(draw(st.integers(1, 4))):
        values = sorted(draw(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)), reverse=True)
        more = draw(st.integers(1, 20))
        cost = Cost(more + draw(st.integers(0, 30)), more, len(values))
        made[f"fc{place}"] = Layer(cost, torch.tensor(values, dtype=torch.float64), draw(st.floats(1e-3, 1e3)))
    return made


def total(ranks, of):
    return sum(of[name].cost.of(rank) for name, rank in ranks.items())


def full(of):
    return sum(layer.cost.of(layer.cost.most) for layer in of.values())


def spread_or_none(of, by, budget):
    try:
        return spread(of, ALLOCATIONS.parse(by), budget)
    except SpecError:
        return None


@pytest.mark.parametrize("by", WAYS)
@settings(deadline=None)
@given(of=layers(), share=st.floats(0, 1))
def test_no_budget_is_overspent_and_no_layer_takes_more_than_it_can(by, of, share):
    budget = int(share * full(of))
    ranks = spread_or_none(of, by, budget)
    if ranks is not None:
        assert 0 < total(ranks, of) <= budget
        assert all(1 <= rank <= of[name].cost.most for name, rank in ranks.items())


@pytest.mark.parametrize("by", WAYS)
@settings(deadline=None)
@given(of=layers(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_budget_never_takes_a_rank_from_a_layer(by, of, shares):
    less, more = (spread_or_none(of, by, int(share * full(of))) for share in sorted(shares))
    if less is not None:
        assert more is not None
        assert all(more[name] >= rank for name, rank in less.items())


@pytest.mark.parametrize("by", WAYS)
@given(of=layers())
def test_a_budget_of_everything_gives_every_layer_what_it_can_use(by, of):
    assert set(spread(of, ALLOCATIONS.parse(by), full(of))) == set(of)
    if by != "energy":
        assert spread(of, ALLOCATIONS.parse(by), full(of)) == {name: layer.cost.most for name, layer in of.items()}


@settings(deadline=None)
@given(of=layers(), share=st.floats(0, 1))
def test_by_gain_the_next_rank_of_every_layer_is_worth_less_than_any_that_was_given(of, share):
    ranks = spread_or_none(of, "gain", int(share * full(of)))
    if ranks is None:
        return

    def worth(name, rank):
        layer = of[name]
        each = layer.spectrum.square()[:rank] * layer.sensitivity
        return min(float(gain) / layer.cost.step(place) for place, gain in enumerate(each, 1))

    given_ = min(worth(name, rank) for name, rank in ranks.items())
    left = [worth(name, ranks.get(name, 0) + 1) for name in of if ranks.get(name, 0) < of[name].cost.most]
    assert max(left, default=0) <= given_


@settings(deadline=None)
@given(of=layers(), share=st.floats(0, 1))
def test_by_energy_one_share_of_energy_gives_every_rank_and_no_larger_share_fits(of, share):
    budget = int(share * full(of))
    ranks = spread_or_none(of, "energy", budget)
    shares = {name: (layer.spectrum.square().cumsum(0) / layer.spectrum.square().sum()) for name, layer in of.items()}

    def least(c):
        return {name: int((own < c - 1e-12).sum()) + 1 for name, own in shares.items()}

    choices = sorted({min(1.0, float(c)) for own in shares.values() for c in own})
    assume(all(b - a > 1e-9 or b - a < 1e-13 for a, b in pairwise(choices)))  # else rounding decides which is larger
    fitting = [least(c) for c in choices if total(least(c), of) <= budget]
    assert (fitting[-1] if fitting else None) == ranks


def test_by_effective_rank_ranks_are_in_its_proportion():
    flat, steep = torch.ones(8), torch.tensor([8.0, *[0.0] * 7])
    of = {"flat": Layer(Cost(1, 1, 8), flat), "half": Layer(Cost(1, 1, 8), flat.where(torch.arange(8) < 4, 0)),
          "steep": Layer(Cost(1, 1, 8), steep)}  # fmt: skip
    assert [effective_rank(layer.spectrum) for layer in of.values()] == pytest.approx([8, 4, 1])
    assert spread(of, ALLOCATIONS.parse("effective_rank"), 13) == {"flat": 8, "half": 4, "steep": 1}


def test_what_lost_nothing_gets_no_rank_by_energy_and_none_by_gain_before_what_did():
    of = {"none": Layer(Cost(1, 1, 3), torch.zeros(3)), "some": Layer(Cost(1, 1, 3), torch.ones(3))}
    assert spread(of, ALLOCATIONS.parse("energy"), 6) == {"some": 3}
    assert spread(of, ALLOCATIONS.parse("gain"), 3) == {"some": 3}


@pytest.mark.parametrize(("budget", "said"), [(4, "too small"), (8 * 3 + 6 * 2 + 1, "more than all")])
def test_a_budget_out_of_range_is_an_error_that_says_what_is_allowed(budget, said):
    of = {"a": Layer(Cost(8, 8, 3), torch.ones(3)), "b": Layer(Cost(6, 6, 2), torch.ones(2))}
    with pytest.raises(SpecError, match=rf"budget {budget}, which is {said}.*allowed: \d+ to 36"):
        spread(of, ALLOCATIONS.parse("effective_rank"), budget)
    with pytest.raises(SpecError, match=r"allowed: 6 to 36"):
        refuse_budgets([20, budget], {name: layer.cost for name, layer in of.items()}, {})


def test_a_spectrum_is_that_of_the_errors_of_a_layers_outputs():
    X, M = torch.randn(500, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    s = spectrum(M, [LayerStats(X.T @ X / 500)])
    assert float(s.square().sum()) == pytest.approx(float((X @ M.T).square().sum() / 500), rel=1e-4)
    best = torch.linalg.svdvals(X @ M.T) / math.sqrt(500)
    torch.testing.assert_close(s, best, rtol=1e-4, atol=1e-6)


def test_the_groups_of_a_convolution_are_weighted_by_their_own_inputs():
    M = torch.randn(4, 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    s = spectrum(M, [LayerStats(eye), LayerStats(4 * eye)])
    torch.testing.assert_close(s, torch.linalg.svdvals(torch.cat([M[:2], 2 * M[2:]])), rtol=1e-4, atol=1e-6)


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
    assert sum(trainable_counts(combination.adapter, begun).values()) == combination.facts(100).trainable <= 100


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
    torch.testing.assert_close(dense._layers["fc1"].spectrum, expected)
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
        spread({"none": Layer(Cost(3, 1, 2), torch.zeros(2))}, ALLOCATIONS.parse("energy"), 4)


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
    assert (plan.spread, plan.clipped) == ({"fc1": 0, "fc2": 1}, {})


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
