"""Faults of a search: losses, values and weights that are not finite. Numbers are those of the table of faults."""

import optuna
import pytest
import torch
from optuna.trial import TrialState
from tiny_studies import (
    Mlp,
    blobs,
    by_cell,
    make_objective,
    make_spec,
    make_task,
    search,
)

from pipeline.cell import Cell
from pipeline.errors import IntegrityError
from pipeline.task.contract import Task

ONE_CELL = {"ranks": [2], "inits": ["svd"]}


def diverging(**changes):
    """A study whose rate makes every SGD lane's loss infinite or NaN within its first epochs."""
    return make_spec(lr={"low": 1e25, "high": 1e30, "log": True}, pruner={"method": "none"}, **changes)


def test_fault_12_a_loss_that_is_not_finite_fails_its_trial_with_step_and_rate(storage):
    study = search(storage, diverging(trials=4, optimizer=["sgd"], **ONE_CELL))
    assert {trial.state for trial in study.trials} == {TrialState.FAIL}
    for trial in study.trials:
        reason = trial.user_attrs["reason"]
        assert "loss" in reason
        assert "step" in reason
        assert "learning rate" in reason
        assert trial.value is None


def test_fault_12_weights_that_the_last_step_made_infinite_are_no_complete_trial():
    spec = make_spec(epochs=1, batch_size=[96], optimizer=["sgd"], lr=1e38)
    study = optuna.create_study(direction="maximize")
    study.optimize(make_objective(spec), n_trials=1)
    assert study.trials[0].state == TrialState.FAIL
    assert "validation loss nan after epoch 1" in study.trials[0].user_attrs["reason"]


def test_fault_12_the_other_trials_of_the_cohort_go_on_unchanged(open_database):
    def fails(lanes):
        for lane in lanes:
            if lane.alpha > 3:
                lane.parameters = {name: tensor * float("nan") for name, tensor in lane.parameters.items()}

    spec = make_spec(optimizer=["adam"], batch_size=[16], pruner={"method": "none"}, ask_ahead=6, trials=6,
                     sampler={"method": "random", "startup": 6}, **ONE_CELL)  # fmt: skip
    objective = make_objective(spec)
    train_epoch = objective.train_epoch

    def epoch(lanes):
        fails(lanes)
        train_epoch(lanes)

    objective.train_epoch = epoch
    sick, sound = search(open_database("sick"), spec, objective=objective, cohort=6), search(open_database("b"), spec)
    failed = {trial.user_attrs["ask"] for trial in sick.trials if trial.state == TrialState.FAIL}
    assert failed
    images = len(make_task().val)
    for mine, other in zip(by_cell(sick.trials)[Cell(2, "svd")], by_cell(sound.trials)[Cell(2, "svd")], strict=False):
        if mine.user_attrs["ask"] not in failed:
            assert mine.intermediate_values == pytest.approx(other.intermediate_values, abs=1 / images)
            assert mine.user_attrs["train_loss"] == pytest.approx(other.user_attrs["train_loss"], abs=1e-4)


def test_fault_13_a_value_that_is_not_finite_makes_optuna_record_a_failure_and_the_study_goes_on():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    objective = make_objective(make_spec(optimizer=["sgd"], lr={"low": 1e-3, "high": 10, "log": True}))
    study.optimize(objective, n_trials=8)
    states = {trial.state for trial in study.trials}
    assert TrialState.FAIL in states
    assert states - {TrialState.FAIL}, "choose a seed for which one trial is sound"
    for trial in study.trials:
        if trial.state == TrialState.FAIL:
            assert "loss" in trial.user_attrs["reason"]
        elif trial.value is not None:
            assert 0 <= trial.value <= 1


def test_fault_14_a_weight_of_zeros_is_handled(storage):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mlp()
    with torch.no_grad():
        model.fc1.weight.zero_()
    task = Task(model, train=blobs(32, 1), val=blobs(16, 2), test=blobs(16, 3))
    spec = make_spec(trials=4)
    study = search(storage, spec, objective=make_objective(spec, task))
    assert TrialState.COMPLETE in {trial.state for trial in study.trials}


def test_fault_14_a_weight_of_nan_is_refused_by_its_layers_name():
    model = Mlp()
    with torch.no_grad():
        model.fc2.weight[1, 2] = float("nan")
    with pytest.raises(IntegrityError, match=r"damaged: 'fc2.weight'"):
        Task(model, train=blobs(32, 1), val=blobs(16, 2), test=blobs(16, 3))


def test_fault_14_a_covariance_of_dead_inputs_is_handled():
    images, labels = blobs(32, 1)
    images[:, :5] = 0
    task = Task(Mlp(), train=(images, labels), val=blobs(16, 2), test=blobs(16, 3))
    spec = make_spec(combination={"compression": {"method": "int1", "metric": "activation"}})
    for weight in make_objective(spec, task).combination.compressed.weights.values():
        assert weight.dense().isfinite().all()
