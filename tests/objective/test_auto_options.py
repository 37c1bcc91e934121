import pytest
import torch
from tiny_studies import make_objective, make_spec, make_task
from torch.nn import functional as F

from pipeline.config.candidates import Candidate
from pipeline.config.registry import COMPRESSIONS
from pipeline.errors import SpecError
from pipeline.objective import auto_options
from pipeline.objective.auto_options import decided, most_scored, search
from pipeline.objective.combination import Combination

AUTO = {"method": "int1", "metric": "auto", "rounding": "auto", "bias": "auto"}


def auto(compression):
    spec = make_spec(combination={"compression": compression})
    return Combination(make_task(), spec.combination[0], spec.search)


def test_the_candidate_whose_outputs_are_nearest_to_the_uncompressed_model_is_taken():
    combination, task = auto(AUTO), make_task()
    chosen = decided(combination)
    losses = []
    for candidate in combination.spec.candidates:
        plain = Combination(task, combination.spec.having(candidate.config), combination.search)
        with torch.no_grad():
            wanted, logits = (model(task.train.images).log_softmax(1) for model in (task.model, plain.compressed.model))
        losses.append(float(F.kl_div(logits, wanted, log_target=True, reduction="batchmean")))
    best = combination.spec.candidates[losses.index(min(losses))]
    assert chosen.spec.compression == chosen.compression == best.config
    assert [one.divergence for one in chosen.tried] == pytest.approx(sorted(losses), rel=1e-4)
    assert chosen.tried[0].options == best.options
    assert losses[0] > min(losses)


def test_a_combination_without_auto_is_itself():
    combination = auto("int1")
    assert decided(combination) is combination
    assert decided(decided(auto(AUTO))).spec.candidates == ()


def test_an_objective_of_a_combination_with_auto_has_chosen():
    objective = make_objective(make_spec(combination={"compression": AUTO}))
    assert objective.combination.spec.candidates == ()
    assert len(objective.combination.tried) == 12


@pytest.mark.parametrize(
    ("compression", "said"),
    [
        ({"method": "intN", "bits": "auto"}, 'compression.bits = "auto" chooses among values of equal size'),
        ({"method": "prune_gradient", "keep": 0.5, "score": "auto"}, "'prune_gradient' trains the model"),
        ({"method": "svd", "energy": 0.9, "metric": "auto"}, "'svd' has a size that values decide"),
    ],
)
def test_auto_is_refused_for_options_that_cost_bytes_or_training(compression, said):
    combination = auto(compression)
    with pytest.raises(SpecError, match=said):
        decided(combination)


def grid(*counts):
    """Candidates with options of so many values."""
    config, options = COMPRESSIONS.parse("int1"), [{}]
    for name, count in enumerate(counts):
        options = [{**known, str(name): value} for known in options for value in range(count)]
    return [Candidate(one, config) for one in options]


def test_many_candidates_are_scored_one_option_after_the_other(monkeypatch):
    monkeypatch.setattr(auto_options, "MOST", 8)
    for counts in ((2, 4), (3, 3, 2)):
        candidates, asked = grid(*counts), []

        def score(candidate, asked=asked):
            asked.append(candidate.options)
            return -sum(candidate.options.values())

        scores = search(candidates, score)
        assert len(asked) == len(scores) == most_scored(candidates) == (8 if counts == (2, 4) else 6)
        assert candidates[min(scores, key=scores.get)].options == candidates[-1].options
