import math
from contextlib import contextmanager

import optuna
import pytest
import sqlalchemy
from bare_studies import SPACE, bare_study, complete, fail, make_ask, make_ledger
from optuna.trial import TrialState, create_trial
from tiny_studies import make_spec, search

from pipeline.errors import StorageError
from pipeline.search import ledger as ledger_module
from pipeline.search.ledger import LONG, bury_abandoned
from pipeline.search.summary import read_status

KNOWN = {"seed": 0, "split": "5" * 64}


@contextmanager
def commits(storage):
    """Counts the transactions that are committed in it."""
    seen = []

    def note(connection):
        seen.append(connection)

    sqlalchemy.event.listen(storage.engine, "commit", note)
    yield seen
    sqlalchemy.event.remove(storage.engine, "commit", note)


def told(trial):
    """All of a trial but when it was."""
    return (
        trial.state, trial.value, trial.params, trial.distributions, trial.user_attrs, trial.intermediate_values
    )  # fmt: skip


@pytest.mark.parametrize("shown", [False, True])
def test_a_trial_ends_in_one_transaction_whether_it_was_shown_or_not(storage, shown):
    ledger, ask = make_ledger(storage), make_ask(seconds=LONG if shown else 0)
    ledger.progress(ask, [0.1])
    with commits(storage) as seen:
        ledger.finish(ask, TrialState.COMPLETE, [0.1, 0.2, 0.3], {**KNOWN, "best_epoch": 3}, 0.3)
    assert len(seen) == 1


def test_a_trial_reads_as_if_optuna_had_written_it(storage):
    ledger, ask = make_ledger(storage), make_ask(number=7)
    accuracies = [0.1, math.inf, 0.3]
    attributes = {"losses": [1.5, None], "versions": {"python": "3"}, "reason": "naïve"}
    number = ledger.finish(ask, TrialState.COMPLETE, accuracies, attributes, 0.3)
    ledger.study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=0.3,
            params=ask.values.params(),
            distributions=SPACE,
            user_attrs={"ask": 7, "origin": "sampler", **attributes},
            intermediate_values=dict(enumerate(accuracies, 1)),
        )
    )
    ours, optunas = ledger.study.trials
    assert told(ours) == told(optunas)
    assert (ours.number, number, optunas.number) == (0, 0, 1)
    assert ours.datetime_start == ask.asked
    assert ours.datetime_complete > ours.datetime_start


def test_a_trial_that_was_shown_ends_as_one_that_was_not(storage):
    ledger = make_ledger(storage)
    for seconds in (0, LONG):
        ask = make_ask(seconds=seconds)
        ledger.progress(ask, [0.1], {**KNOWN, "best_epoch": 0})
        ledger.finish(ask, TrialState.PRUNED, [0.1, 0.2], {**KNOWN, "best_epoch": 2}, 0.2)
    whole, shown = ledger.study.trials
    assert told(whole) == told(shown)


def test_a_trial_that_runs_has_what_is_known_of_it_at_its_start(storage):
    ledger = make_ledger(storage)
    ledger.progress(make_ask(3, seconds=LONG), [0.1, 0.2], KNOWN)
    (trial,) = ledger.study.trials
    assert trial.state == TrialState.RUNNING
    assert trial.user_attrs == {"ask": 3, "origin": "sampler", **KNOWN}
    assert trial.intermediate_values == {1: 0.1, 2: 0.2}


def test_a_quick_trial_is_not_shown_before_it_ends(storage):
    ledger = make_ledger(storage)
    ledger.progress(make_ask(), [0.1])
    assert ledger.study.trials == []


def test_what_was_not_shown_of_a_trial_is_shown_with_the_next(storage, monkeypatch):
    ledger, asks = make_ledger(storage), [make_ask(number, seconds=LONG) for number in range(3)]
    for ask in asks:
        ledger.progress(ask, [])
    for epoch in (1, 2):
        for ask in asks:  # within a second of the last report
            ledger.progress(ask, [0.1] * epoch)
    assert [len(trial.intermediate_values) for trial in ledger.study.trials] == [0, 0, 0]
    monkeypatch.setattr(ledger_module, "EVERY", 0.0)
    with commits(storage) as seen:
        ledger.progress(asks[0], [0.1] * 3)
    assert [len(trial.intermediate_values) for trial in ledger.study.trials] == [3, 2, 2]
    assert len(seen) == 1


def test_showing_trials_takes_no_more_than_its_share_of_the_time(storage, monkeypatch):
    for name in ("LONG", "EVERY", "AT_FIRST"):
        monkeypatch.setattr(ledger_module, name, 0.0)
    ledger, ask = make_ledger(storage), make_ask()
    before = ledger.seconds
    for epoch in range(200):
        ledger.progress(ask, [0.1] * epoch)
    shown = ledger.study.trials[0].intermediate_values
    assert len(shown) < 20
    assert ledger.seconds > before
    ledger.finish(ask, TrialState.COMPLETE, [0.1] * 200, {}, 0.1)
    assert len(ledger.study.trials[0].intermediate_values) == 200


def test_seconds_are_those_that_were_spent_in_the_database(storage):
    ledger = make_ledger(storage)
    before = ledger.seconds
    complete(ledger, 0, 0.5)
    once = ledger.seconds - before
    assert 0 < once < 1
    ledger.progress(make_ask(1), [0.1])
    assert ledger.seconds - before == once


def test_numbers_go_on_after_a_trial_that_someone_else_stored(storage):
    ledger = make_ledger(storage)
    assert complete(ledger, 0, 0.5) == 0
    ledger.study.add_trial(create_trial(state=TrialState.FAIL))
    assert fail(ledger, 1, "not finite") == 2
    assert [trial.number for trial in ledger.study.trials] == [0, 1, 2]


def test_a_trial_that_someone_else_ended_is_not_ended_again(storage):
    ledger, ask = make_ledger(storage), make_ask(seconds=LONG)
    ledger.progress(ask, [0.1])
    bury_abandoned(bare_study(storage))
    with pytest.raises(StorageError, match="trial 0 was ended by another program"):
        ledger.finish(ask, TrialState.COMPLETE, [0.1], KNOWN, 0.1)
    (trial,) = ledger.study.trials
    assert (trial.state, trial.value, trial.user_attrs["reason"]) == (TrialState.FAIL, None, "its run was killed")
    assert "seed" not in trial.user_attrs, "nothing of the refused end is stored"


def test_abandoned_trials_are_buried_together(storage):
    ledger = make_ledger(storage)
    for number in range(3):
        ledger.progress(make_ask(number, seconds=LONG), [])
    with commits(storage) as seen:
        bury_abandoned(ledger.study)
    assert len(seen) <= 4, "two to read names, one to read trials, one to write"
    for trial in ledger.study.trials:
        assert trial.state == TrialState.FAIL
        assert trial.user_attrs["killed"]
        assert trial.user_attrs["interrupted"]


def test_a_trial_whose_showing_was_interrupted_still_ends_whole_and_the_summary_is_not_believed(storage, monkeypatch):
    ledger, ask = make_ledger(storage), make_ask(seconds=LONG)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "write_epochs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.progress(ask, [0.1])
    assert ledger.study.trials == [], "half a trial is none"
    ledger.finish(ask, TrialState.COMPLETE, [0.1], {}, 0.1)
    assert [trial.state for trial in ledger.study.trials] == [TrialState.COMPLETE]
    url = str(storage.engine.url)
    assert read_status(url, "tiny", with_reasons=True) is None
    make_ledger(storage)
    assert read_status(url, "tiny", with_reasons=True) is not None


def test_a_trial_that_someone_asked_for_outside_a_run_is_left_running_and_does_not_stop_one(storage):
    search(storage, make_spec(trials=4))
    own = optuna.load_study(study_name="tiny/int1-lora", storage=storage)
    theirs = own.ask()
    search(storage, make_spec(trials=5))
    assert own.trials[theirs.number].state == TrialState.RUNNING
    search(storage, make_spec(trials=6))
