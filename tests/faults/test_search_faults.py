"""Faults of a search: killed, interrupted, changed under it. Numbers are those of the table of faults."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from stopping import StopAfter
from tiny_studies import (
    COUNTED,
    asks,
    blobs,
    by_cell,
    kept_of,
    make_objective,
    make_spec,
    make_task,
    outcomes,
    search,
    stored_study,
)

from pipeline.errors import SpecError
from pipeline.guard import StopTraining
from pipeline.results.reading import read_results
from pipeline.run.winners import find_winners, recover
from pipeline.store import ledger
from pipeline.task.contract import Task

ONE_CELL = {"ranks": [2], "inits": ["svd"]}


class Killed(BaseException):
    """As little handled as SIGKILL."""


@pytest.fixture
def _shown_at_once(monkeypatch):
    monkeypatch.setattr(ledger, "LONG", 0.0)
    monkeypatch.setattr(ledger, "EVERY", 0.0)
    monkeypatch.setattr(ledger, "AT_FIRST", float("inf"))  # however slow the disk is


def killing(objective, after):
    """An objective whose run is killed before epoch ``after + 1``."""
    train_epoch, left = objective.train_epoch, [after]

    def epoch(lanes):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        train_epoch(lanes)

    objective.train_epoch = epoch
    return objective


@pytest.mark.usefixtures("_shown_at_once")
def test_fault_02_values_of_a_killed_run_are_asked_again_and_counted_once(open_database):
    storage, spec = open_database(), make_spec(**ONE_CELL)
    with pytest.raises(Killed):
        search(storage, spec, objective=killing(make_objective(spec), 3), cohort=8)
    study = optuna.load_study(study_name="tiny/int1-lora", storage=storage)
    running = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    assert running, "nothing was running when it was killed"
    study = search(storage, spec, cohort=8)
    assert not [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    buried = [trial for trial in study.trials if "killed" in trial.user_attrs]
    assert [trial.state for trial in buried] == [TrialState.FAIL] * len(running)
    assert {trial.user_attrs["reason"] for trial in buried} == {"its run was killed"}
    whole = search(open_database("whole"), spec, cohort=8)
    assert asks(study) == asks(whole)
    assert outcomes(study) == outcomes(whole)


@pytest.mark.usefixtures("_shown_at_once")
def test_fault_02_a_trial_that_kills_its_run_is_tried_three_times_and_no_more(storage):
    spec = make_spec(trials=3, sampler={"method": "random", "startup": 1}, ask_ahead=1, **ONE_CELL)
    for _ in range(3):
        with pytest.raises(Killed):
            search(storage, spec, objective=killing(make_objective(spec), 1))
    study = search(storage, spec)
    first = [trial for trial in study.trials if trial.user_attrs["ask"] == 0]
    assert [trial.state for trial in first] == [TrialState.FAIL] * 4
    assert "killed 3 times" in first[-1].user_attrs["reason"]
    assert sum(trial.state in COUNTED for trial in study.trials) == 3


def test_fault_02_sigkill_of_the_whole_run_loses_no_finished_trial(open_database, tmp_path: Path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
import torch
torch.set_num_threads(1)
from pipeline.store import ledger
from pipeline.store.database import open_storage
from stopping import StopAfter
from tiny_studies import make_objective, make_spec, search
ledger.LONG, ledger.EVERY, ledger.AT_FIRST = 0.0, 0.0, float("inf")  # however slow the disk is
spec = make_spec(trials=4)
objective = make_objective(spec)
train_epoch, left = objective.train_epoch, [20]
def epoch(lanes):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    train_epoch(lanes)
objective.train_epoch = epoch
search(open_storage("sqlite:///{tmp_path}/killed.db"), spec, objective=objective, cohort=2)
"""
    child = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL
    storage = open_database("killed")
    before = optuna.load_study(study_name="tiny/int1-lora", storage=storage).trials
    finished = {t.number: (t.state, t.params, t.value) for t in before if t.state in COUNTED}
    assert finished
    assert any(trial.state == TrialState.RUNNING for trial in before)
    after = search(storage, make_spec(trials=4))
    assert {number: (after.trials[number].state, after.trials[number].params, after.trials[number].value)
            for number in finished} == finished  # fmt: skip
    assert {sum(t.state in COUNTED for t in trials) for trials in by_cell(after.trials).values()} == {4}


@pytest.mark.parametrize("batches", [0, 5, 40, 90])
def test_fault_04_interrupted_and_resumed_comes_to_the_same_asks_and_values(open_database, batches):
    whole = search(open_database("whole"))
    storage = open_database("interrupted")
    with pytest.raises(StopTraining):
        search(storage, guard=StopAfter(batches))
    stopped = optuna.load_study(study_name="tiny/int1-lora", storage=storage).trials
    interrupted = [trial for trial in stopped if "interrupted" in trial.user_attrs]
    assert interrupted
    for trial in interrupted:
        assert trial.state == TrialState.FAIL
        assert trial.user_attrs["reason"] == "the test said so"
    (result,) = read_results(storage, "tiny")
    assert sum(cell.tally.states["fail"] for cell in result.cells) == 0, "interrupted trials count as failures"
    resumed = search(storage)
    assert asks(resumed) == asks(whole)
    assert outcomes(resumed) == outcomes(whole)


def test_fault_04_interrupted_again_and_again_still_comes_to_the_same(open_database):
    whole, storage = search(open_database("whole")), open_database("interrupted")
    for batches in range(60, 300, 40):
        try:
            resumed = search(storage, guard=StopAfter(batches))
            break
        except StopTraining:
            continue
    assert (asks(resumed), outcomes(resumed)) == (asks(whole), outcomes(whole))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "another's", "none"])
def test_fault_09_a_damaged_kept_adapter_is_trained_again_to_the_same(storage, damage):
    spec = make_spec(trials=4)
    objective, study = make_objective(spec), search(storage, spec)
    kept = kept_of(spec)
    (cell, trial), (other, _) = list(find_winners(study).items())[:2]
    # Cloned, because a loaded tensor may be a view of the file that is damaged now.
    sound = {name: t.clone() for name, t in recover(objective, kept, trial).parameters.items()}
    path = kept.path(cell)
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:-7])
    elif damage == "flipped":
        data[-3] ^= 0x40
        path.write_bytes(data)
    elif damage == "another's":
        path.write_bytes(kept.path(other).read_bytes())
    else:
        path.unlink()
    assert kept.load(cell, trial.number) is None
    again = recover(objective, kept, trial).parameters
    assert again.keys() == sound.keys()
    assert all((again[name] - sound[name]).abs().max() < 1e-5 for name in sound)


def test_fault_18_changed_data_is_refused_with_the_difference(storage):
    stored_study(storage, make_spec(), make_objective())
    images, labels = blobs(96, 1)
    images[3] += 1
    changed = Task(make_task().model, train=(images, labels), val=blobs(80, 2), test=blobs(80, 3))
    with pytest.raises(SpecError, match=r"data: stored [0-9a-f]{64}, now [0-9a-f]{64}") as refused:
        stored_study(storage, make_spec(), make_objective(task=changed))
    assert "weights" not in str(refused.value)


@pytest.mark.parametrize(
    ("targets", "said"),
    [(["fc3"], "'fc3' matches no layer; did you mean 'fc"), (["fc1", "nothing.*"], r"'nothing\.\*'")],
)
def test_fault_20_a_target_that_matches_nothing_is_refused_with_the_nearest_names(targets, said):
    with pytest.raises(SpecError, match=said):
        make_objective(make_spec(combination={"targets": targets}))


def test_fault_20_a_layer_that_cannot_be_adapted_is_refused_by_name():
    from tiny_studies import BatchNormNet

    with pytest.raises(SpecError, match="'bn1', a BatchNorm2d, which cannot be adapted"):
        make_objective(make_spec(combination={"targets": ["bn1"]}), make_task(BatchNormNet))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed: stored 0, now 1"),
        ({"lr": {"low": 1e-3, "high": 0.5, "log": True}}, r"search\.lr\.high: stored 0\.1, now 0\.5"),
        ({"ranks": [1, 2, 4]}, r"search\.ranks: stored \[1, 2\], now \[1, 2, 4\]"),
        ({"epochs": 5}, r"search\.epochs: stored 3, now 5"),
        ({"combination": {"targets": ["fc1"]}}, r"combination\.targets"),
        ({"combination": {"compression": {"method": "int1", "scale": "none"}}}, r"scale: stored row, now none"),
    ],
)
def test_fault_21_a_study_resumed_otherwise_is_refused_with_the_difference_and_the_way_out(storage, changes, said):
    search(storage, make_spec(trials=4, **ONE_CELL) if "ranks" not in changes else make_spec(trials=4))
    before = optuna.load_study(study_name="tiny/int1-lora", storage=storage)
    stored = dict(before.user_attrs)
    spec = make_spec(**{"trials": 4, **({} if "ranks" in changes else ONE_CELL), **changes})
    with pytest.raises(SpecError, match=said) as refused:
        search(storage, spec)
    assert "another name" in str(refused.value)
    after = optuna.load_study(study_name="tiny/int1-lora", storage=storage)
    assert after.user_attrs == stored
    assert len(after.trials) == len(before.trials)


def test_fault_21_a_stored_study_of_another_direction_is_refused(storage):
    optuna.create_study(storage=storage, study_name="tiny/int1-lora", direction="minimize")
    with pytest.raises(SpecError, match="direction"):
        stored_study(storage, make_spec(), make_objective())


@pytest.mark.parametrize("name", ["a/b", "..", "../up", "two words", "x" * 300, "", ".hidden", "a\nb"])
def test_fault_22_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(SpecError, match="name"):
        make_spec(name=name)
    with pytest.raises(SpecError, match="name"):
        make_spec(combination={"name": name})
    assert os.listdir() == []
