from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from pipeline.numbers import covered_seconds
from pipeline.results.progress import standing
from pipeline.results.reading import read_results

BEGIN = datetime(2026, 3, 1)
SPANS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=8)


def test_complete_and_pruned_trials_count_and_failed_ones_do_not(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.trial(2, "svd", 0.9)
    stored.trial(2, "svd", 0.8, TrialState.PRUNED)
    stored.trial(2, "svd", 0.1, TrialState.FAIL, reason="not finite")
    stored.running(2, "svd")
    now = standing(read_results(storage, "digits"))
    assert (now.done, now.budget, now.running, now.tested, now.finished) == (2, 4, 1, False, False)


def test_a_cell_that_is_exhausted_is_not_waited_for(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    for _ in range(4):
        stored.trial(2, "svd", 0.1, TrialState.FAIL, reason="not finite")
    now = standing(read_results(storage, "digits"))
    assert (now.done, now.budget, now.finished) == (4, 4, True)


def test_a_study_that_has_not_begun_has_taken_no_time(store, storage):
    store()
    now = standing(read_results(storage, "digits"))
    assert (now.done, now.seconds, now.latest) == (0, 0, None)


def test_a_finished_study_is_finished(finished):
    now = standing(finished)
    assert now.finished
    assert now.seconds > 0


@given(SPANS)
def test_time_is_counted_once_however_many_trials_went_on_and_pauses_are_not(spans):
    seconds = {second for start, length in spans for second in range(start, start + length)}
    moments = [(BEGIN + timedelta(seconds=s), BEGIN + timedelta(seconds=s + length)) for s, length in spans]
    assert covered_seconds(moments) == pytest.approx(len(seconds))
