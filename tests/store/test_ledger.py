import hashlib
import math
from pathlib import Path

import optuna
import pytest
import torch
from bare_studies import CELL, SPACE, bare_study, commits, complete, fail, make_ask, make_ledger
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from optuna.trial import TrialState, create_trial
from tiny_studies import make_spec, search

from pipeline.cell import Cell
from pipeline.errors import StorageError
from pipeline.paths import PICTURES
from pipeline.results.study_state import read_status
from pipeline.store import ledger as ledger_module
from pipeline.store.kept_adapters import Kept
from pipeline.store.ledger import LONG, bury_abandoned
from pipeline.store.stored_study import create_or_resume, metric_of, note_file

KNOWN = {"seed": 0, "split": "5" * 64}


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
        ledger.progress(ask, [0.1], lambda: {**KNOWN, "best_epoch": 0})
        ledger.finish(ask, TrialState.PRUNED, [0.1, 0.2], {**KNOWN, "best_epoch": 2}, 0.2)
    whole, shown = ledger.study.trials
    assert told(whole) == told(shown)


def test_a_trial_that_runs_has_what_is_known_of_it_at_its_start(storage):
    ledger = make_ledger(storage)
    ledger.progress(make_ask(3, seconds=LONG), [0.1, 0.2], lambda: KNOWN)
    (trial,) = ledger.study.trials
    assert trial.state == TrialState.RUNNING
    assert trial.user_attrs == {"ask": 3, "origin": "sampler", **KNOWN}
    assert trial.intermediate_values == {1: 0.1, 2: 0.2}


def test_the_attributes_of_a_running_trial_are_made_only_for_its_row(storage, monkeypatch):
    monkeypatch.setattr(ledger_module, "EVERY", 0.0)
    ledger, long, made = make_ledger(storage), make_ask(seconds=LONG), []

    def attributes():
        made.append("attributes")
        return KNOWN

    ledger.progress(make_ask(1), [], attributes)
    assert made == []
    for epoch in range(4):
        ledger.progress(long, [0.1] * epoch, attributes)
    assert len(made) == 1


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


CURVE = {"train_loss": [1.0, 0.5], "val_loss": [1.1, 0.6], "best_epoch": 2}


@pytest.mark.parametrize(
    ("state", "more", "said"),
    [
        (TrialState.COMPLETE, {}, "complete: best 20.00% in epoch 2 of 2"),
        (TrialState.PRUNED, {}, "pruned: best 20.00% in epoch 2 of 2"),
        (TrialState.FAIL, {"reason": "not finite", "best_epoch": 0}, "failed after 2 epochs"),
        (TrialState.FAIL, {"reason": "signal", "interrupted": True}, "interrupted: best 20.00% in epoch 2 of 2"),
    ],
)
def test_every_trial_with_an_epoch_has_a_picture_of_its_curves_as_optunas_artifact(storage, state, more, said):
    ledger = make_ledger(storage)
    number = ledger.finish(make_ask(), state, [0.1, 0.2], {**CURVE, **more}, 0.2 if state.name == "COMPLETE" else None)
    (meta,) = get_all_artifact_meta(ledger.study.trials[number], storage=ledger.study._storage)
    assert (meta.filename, meta.mimetype, meta.encoding) == ("curves.svg", "image/svg+xml", None)
    download_artifact(
        artifact_store=FileSystemArtifactStore(PICTURES), file_path="curves.svg", artifact_id=meta.artifact_id
    )
    picture = Path("curves.svg").read_text()
    assert f"tiny/int1-lora, trial {number}" in picture
    assert said in picture
    assert "validation accuracy (%)" in picture


def test_a_trial_without_an_epoch_has_no_picture(storage):
    ledger = make_ledger(storage)
    fail(ledger, 0, "not finite")
    assert get_all_artifact_meta(ledger.study.trials[0], storage=ledger.study._storage) == []
    assert not PICTURES.exists()


def test_a_killed_trial_has_a_picture_of_the_epochs_that_are_known(storage):
    ledger = make_ledger(storage)
    ledger.progress(make_ask(seconds=LONG), [0.1, 0.2])
    bury_abandoned(ledger.study)
    (meta,) = get_all_artifact_meta(ledger.study.trials[0], storage=ledger.study._storage)
    assert "interrupted after 2 epochs" in (PICTURES / meta.artifact_id).read_text()


def test_the_kept_adapter_is_named_on_the_best_trial_of_its_cell_alone_with_the_sha256_of_the_file(storage):
    ledger = make_ledger(storage)
    kept = Kept("tiny", "int1-lora", ledger.study.user_attrs["id"])
    other = Cell(1, "svd")
    for place, cell in enumerate((CELL, other, CELL)):
        number = complete(ledger, place, 0.5 + place / 10, cell)
        kept.save_best(ledger.study, cell, number, {"fc1.lora_A": torch.full((2, 3), float(place))})
    named = [trial.user_attrs.get("adapter") for trial in bare_study(storage).trials]
    assert named == [None, "storage/artifacts/tiny/int1-lora/rank-1.svd.safetensors",
                     "storage/artifacts/tiny/int1-lora/rank-2.svd.safetensors"]  # fmt: skip
    for trial in bare_study(storage).trials[1:]:
        data = Path(trial.user_attrs["adapter"]).read_bytes()
        assert trial.user_attrs["adapter_sha256"] == hashlib.sha256(data).hexdigest()
    assert "adapter_sha256" not in bare_study(storage).trials[0].user_attrs


def test_studies_of_one_database_keep_their_own_files(storage):
    first, second = make_ledger(storage), make_ledger(storage, name="tiny/other")
    for ledger in (first, second):
        note_file(ledger.study, complete(ledger, 0, 0.5), "checkpoint", Path("a/model.safetensors"), "0" * 64)
    for name in ("tiny/int1-lora", "tiny/other"):
        assert bare_study(storage, name).trials[0].user_attrs["checkpoint"] == "a/model.safetensors"


def test_what_the_trials_are_judged_by_is_named_by_the_tasks_metric(storage):
    study = create_or_resume(storage, "tiny/agreeing", {}, {}, {"task": {"metric": "agreement"}})
    assert metric_of(study) == "validation agreement"
    assert metric_of(bare_study(storage)) == "validation accuracy"


def test_a_trial_is_not_lost_where_its_picture_cannot_be_written(storage):
    PICTURES.parent.mkdir(parents=True, exist_ok=True)
    PICTURES.write_text("a file where the folder would be")
    ledger = make_ledger(storage)
    number = ledger.finish(make_ask(), TrialState.COMPLETE, [0.1, 0.2], CURVE, 0.2)
    trial = ledger.study.trials[number]
    assert trial.value == 0.2
    assert trial.user_attrs["picture"].startswith("not written: ")
    assert get_all_artifact_meta(trial, storage=ledger.study._storage) == []
