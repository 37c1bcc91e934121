import copy

import pytest
import torch
from tiny_studies import make_objective, make_spec, make_task
from torch.nn import functional as F

from pipeline.compress.methods.int1 import Int1
from pipeline.config.candidates import Auto, Candidate
from pipeline.config.registry import COMPRESSIONS
from pipeline.errors import IntegrityError, SpecError
from pipeline.objective import auto_options
from pipeline.objective.auto_options import MOST, decided, most_scored, named_options, search
from pipeline.objective.auto_sample import Sample
from pipeline.objective.combination import Combination
from pipeline.space import Values

AUTO = {"method": "int1", "metric": "auto", "rounding": "auto", "bias": "auto"}


def auto(compression, **changes):
    spec = make_spec(combination={"compression": compression, **changes})
    return Combination(make_task(), spec.combination[0], spec.search)


def test_the_candidate_whose_outputs_are_nearest_to_the_uncompressed_model_is_taken():
    combination, task = auto(AUTO), make_task()
    chosen = decided(combination)
    losses = []
    (table,) = combination.spec.autos
    for candidate in table.candidates:
        plain = Combination(task, combination.spec.having([candidate.config]), combination.search)
        with torch.no_grad():
            wanted, logits = (model(task.train.images).log_softmax(1) for model in (task.model, plain.compressed.model))
        losses.append(float(F.kl_div(logits, wanted, log_target=True, reduction="batchmean")))
    best = table.candidates[losses.index(min(losses))]
    assert chosen.spec.compression == chosen.compression == best.config
    assert [one.divergence for one in chosen.tried] == pytest.approx(sorted(losses), rel=1e-4)
    assert chosen.tried[0].options == best.options
    assert losses[0] > min(losses)


def test_a_combination_without_auto_is_itself():
    combination = auto("int1")
    assert decided(combination) is combination
    assert decided(decided(auto(AUTO))).spec.autos == ()


def test_an_objective_of_a_combination_with_auto_has_chosen():
    objective = make_objective(make_spec(combination={"compression": AUTO}))
    assert objective.combination.spec.autos == ()
    assert len(objective.combination.tried) == 12


@pytest.mark.parametrize(
    ("compression", "said"),
    [
        (
            {"method": "intN", "bits": "auto"},
            r'bits = "auto" chooses .* takes [\d,]+ bytes with bits = 4 and .*give a value',
        ),
        ({"method": "prune_gradient", "keep": 0.5, "score": "auto"}, "'prune_gradient' trains the model"),
        ({"method": "svd", "energy": 0.9, "metric": "auto"}, "'svd' has a size that values decide"),
    ],
)
def test_auto_is_refused_for_options_that_cost_bytes_or_training(compression, said):
    combination = auto(compression)
    with pytest.raises(SpecError, match=said):
        decided(combination)


def test_a_compression_of_targets_that_costs_bytes_is_refused_by_its_entry():
    own = {"match": "fc2", "compression": {"method": "intN", "bits": "auto"}}
    with pytest.raises(SpecError, match=r'targets: compression of fc2, compression.bits = "auto" chooses'):
        decided(auto(AUTO, targets=["*", own]))


def test_compressions_of_targets_are_chosen_with_that_of_the_combination():
    own = {"match": "fc2", "compression": {"method": "intN", "bits": 2, "rounding": "auto"}}
    chosen = decided(auto({"method": "int1", "bias": "auto"}, targets=["*", own]))
    assert len(chosen.tried) == 6
    best, *others = chosen.tried
    assert best.options.keys() == {"bias", "rounding of fc2"}
    assert all(best.divergence < other.divergence for other in others)
    assert chosen.compression.of_layer("fc2").rounding == best.options["rounding of fc2"]
    assert chosen.compression.of_layer("fc1").bias == best.options["bias"]


def test_frozen_layers_before_the_first_target_are_computed_once():
    combination = auto(AUTO, targets=["fc2"])
    seen = []
    with combination.model.get_submodule("fc1").register_forward_hook(lambda *call: seen.append(len(call[1][0]))):
        alone, table = Sample(combination), combination.spec.autos[0]
        plain = auto(table.candidates[5].config, targets=["fc2"]).compressed.model
        assert seen
        seen.clear()
        assert alone.of_model(combination.compressed.model) > alone.of_model(plain) > 0
        assert seen == []


def test_the_init_whose_starts_bring_the_outputs_nearest_is_taken():
    spec = make_spec(inits="auto", ranks=[1, 3])
    combination, task = Combination(make_task(), spec.combination[0], spec.search), make_task()
    chosen = decided(combination)
    scores = {one.options["init"]: one.divergence for one in chosen.tried_inits}
    assert len(scores) == len(spec.search.init_candidates)
    assert scores["paper"] == pytest.approx(scores["zero"]) == pytest.approx(scores["eva"])
    assert min(scores, key=scores.get) == chosen.search.inits[0].name == next(iter(chosen.inits))
    assert scores["qera"] < scores["paper"]
    found = []
    for rank in (1, 3):
        start = combination.starts(Values(rank, "svd", alpha=3.0), 0)
        model = copy.deepcopy(combination.compressed.model)
        with torch.no_grad():
            for name, one in start.items():
                model.get_submodule(name).weight += (one.B @ one.A).float()
            wanted, logits = (it(task.train.images).log_softmax(1) for it in (task.model, model))
        found.append(float(F.kl_div(logits, wanted, log_target=True, reduction="batchmean")))
    assert scores["svd"] == pytest.approx(sum(found) / 2, rel=1e-4)


def test_inits_are_scored_with_factors_as_a_file_stores_them():
    scores = []
    for factors in ("float32", "int8"):
        spec = make_spec(inits="auto", combination={"adapter": {"method": "lora", "factors": factors}})
        chosen = decided(Combination(make_task(), spec.combination[0], spec.search))
        scores.append({one.options["init"]: one.divergence for one in chosen.tried_inits}["svd"])
    assert scores[1] != scores[0]
    assert scores[1] == pytest.approx(scores[0], rel=0.1)


def test_outputs_that_are_not_numbers_are_infinitely_far():
    combination = auto(AUTO)
    damaged = copy.deepcopy(combination.compressed.model)
    damaged.fc2.bias.data[0] = torch.nan
    assert Sample(combination).of_model(damaged) == float("inf")


def test_a_weight_that_cannot_be_compressed_leaves_the_defaults_and_the_log_says_so(monkeypatch, caplog):
    combination = auto(AUTO, adapter="codes")

    def fail(*_):
        raise IntegrityError("the weight of layer 'fc1' cannot be decomposed")

    monkeypatch.setattr(Sample, "of_model", fail)
    chosen = decided(combination)
    assert chosen.compression == Int1()
    assert chosen.spec.autos == ()
    assert chosen.tried == []
    assert "what is auto keeps its defaults, as candidates cannot be scored: the weight of layer 'fc1'" in caplog.text


def test_the_model_is_compressed_once_for_all_inits(monkeypatch):
    compress, seen = Int1.compress_model, []
    monkeypatch.setattr(Int1, "compress_model", lambda *given: seen.append(given[2]) or compress(*given))
    spec = make_spec(inits="auto")
    decided(Combination(make_task(), spec.combination[0], spec.search))
    assert seen == [["fc1", "fc2"]]


def test_an_adapter_without_ranks_has_no_init_to_choose():
    spec = make_spec(inits="auto", combination={"adapter": "codes"})
    combination = Combination(make_task(), spec.combination[0], spec.search)
    assert decided(combination) is combination


def grid(*counts):
    """Tables with options of so many values, one table for each tuple."""
    config, tables = COMPRESSIONS.parse("int1"), []
    for index, table in enumerate(counts):
        options = [{}]
        for name, count in enumerate(table):
            options = [{**known, str(name): value} for known in options for value in range(count)]
        tables.append(Auto(index, f" of {index}", tuple(Candidate(one, config) for one in options)))
    return tables


@pytest.mark.parametrize(
    ("counts", "scored"), [([(2, 4)], 8), ([(3, 3, 2)], 6), ([(2,), (4,)], 8), ([(3, 2), (3,)], 6)]
)
def test_many_candidates_are_scored_one_option_after_the_other(monkeypatch, counts, scored):
    monkeypatch.setattr(auto_options, "MOST", 8)
    tables, asked = grid(*counts), []

    def score(choice):
        asked.append(choice)
        return -sum(named_options(tables, choice).values())

    scores = search(tables, score)
    assert len(set(asked)) == len(asked) == len(scores) == most_scored(tables) == scored
    assert min(scores, key=scores.get) == tuple(len(table.candidates) - 1 for table in tables)


@pytest.mark.parametrize("order", [["ridge", "metric", "rounding", "bias"], ["bias", "rounding", "metric", "ridge"]])
def test_an_option_that_needs_another_is_scored_after_it_whatever_the_order_of_the_table(order):
    autos = auto({"method": "int1", **dict.fromkeys(order, "auto")}).spec.autos
    wanted = {"metric": "activation", "rounding": "gptq", "bias": "corrected", "ridge": 5.0}
    assert len(autos[0].candidates) > MOST

    def score(choice):
        return sum(value != wanted[option] for option, value in named_options(autos, choice).items())

    scores = search(autos, score)
    assert min(scores.values()) == 0
    assert len(scores) == most_scored(autos)
