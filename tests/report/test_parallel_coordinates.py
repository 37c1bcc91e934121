import math

import pytest
from optuna.trial import TrialState

from pipeline.report.figures.contract import PICTURES, NothingToDraw
from pipeline.results.reading import read_results

parallel_coordinates = PICTURES["parallel_coordinates"]().draw


def dimensions(results):
    return {one.label: one for one in parallel_coordinates(results).data[0].dimensions}


def names_of(dimension):
    names = dict(zip(dimension.tickvals, dimension.ticktext, strict=True))
    return [names[value] for value in dimension.values]


def test_every_value_has_an_axis_and_every_complete_trial_a_line_the_best_last(finished):
    own = dimensions(finished)
    labels = ["combination", "rank", "init", "alpha (log)", "optimizer", "lr (log)", "batch size", "accuracy (%)"]
    assert list(own) == labels
    trials = [(one, t) for one in finished for t in one.study.get_trials(states=(TrialState.COMPLETE,))]
    trials.sort(key=lambda pair: pair[1].value)
    assert names_of(own["combination"]) == [one.name for one, _ in trials]
    assert names_of(own["rank"]) == [str(trial.params["rank"]) for _, trial in trials]
    assert names_of(own["optimizer"]) == [trial.params["optimizer"] for _, trial in trials]
    assert 10 ** own["lr (log)"].values == pytest.approx([trial.params["lr"] for _, trial in trials], rel=1e-5)
    assert 100 - 10 ** -own["accuracy (%)"].values == pytest.approx([100 * t.value for _, t in trials], rel=1e-5)


def test_ticks_of_a_logarithm_are_the_numbers_themselves(finished):
    lr = dimensions(finished)["lr (log)"]
    assert [math.log10(float(text)) for text in lr.ticktext] == pytest.approx(lr.tickvals)
    assert lr.range[0] <= min(lr.tickvals)
    assert max(lr.tickvals) <= lr.range[1]


def test_what_all_trials_share_is_left_out(store, storage):
    stored = store(ranks=(2,), inits=("svd",), optimizers=("adam",))
    for step in range(6):
        stored.trial(2, "svd", 0.9 + step / 100)
    assert set(dimensions(read_results(storage, "digits"))) == {"alpha (log)", "lr (log)", "batch size", "accuracy (%)"}


def test_one_trial_has_nothing_to_compare(store, storage):
    store(ranks=(2,), inits=("svd",)).trial(2, "svd", 0.9)
    with pytest.raises(NothingToDraw, match="all complete trials have the same values"):
        parallel_coordinates(read_results(storage, "digits"))


def test_trials_that_do_not_differ_in_accuracy_are_drawn(store, storage):
    stored = store()
    for rank in (2, 8):
        stored.trial(rank, "svd", 0.9)
    accuracy = dimensions(read_results(storage, "digits"))["accuracy (%)"]
    assert accuracy.range[0] < accuracy.values[0] < accuracy.range[1]
    assert len(accuracy.ticktext) <= 11


def test_a_value_that_a_trial_has_not_lies_below_the_axis_under_a_dash(store, storage):
    store(ranks=(2,), inits=("svd",)).trial(2, "svd", 0.9)
    other = store(combination="other", ranks=(2,), inits=("svd",))
    other.trial(2, "svd", 0.91)
    results = read_results(storage, "digits")
    (trial,) = results[1].study.get_trials(deepcopy=False)
    del trial.params["alpha"], trial.distributions["alpha"], trial.params["optimizer"], trial.distributions["optimizer"]
    one = results[0].study.get_trials(deepcopy=False)[0].params
    own = dimensions(results)
    assert names_of(own["optimizer"]) == [one["optimizer"], "-"]
    alpha = own["alpha (log)"]
    assert alpha.values[0] == pytest.approx(math.log10(one["alpha"]))
    assert dict(zip(alpha.ticktext, alpha.tickvals, strict=True))["-"] == pytest.approx(alpha.values[1])
    assert alpha.values[1] < alpha.values[0]
