"""Tasks and objectives in other processes, in threads and as copies."""

import copy
import multiprocessing
import pickle
import sqlite3
from typing import Any

import optuna
import pytest
import torch
from tiny_studies import Mlp, blobs, make_objective, make_spec, make_task
from torch.utils.data import TensorDataset

from pipeline.objective.objective import Objective
from pipeline.task.contract import Task
from pipeline.task.parts import DatasetPart

optuna.logging.set_verbosity(optuna.logging.ERROR)

PARTS = {"train": blobs(96, 1), "val": blobs(80, 2), "test": blobs(80, 3)}
TASKS = {
    "tensors": lambda: PARTS,
    "arrays": lambda: {name: (images.numpy(), labels.tolist()) for name, (images, labels) in PARTS.items()},
    "data sets": lambda: {name: TensorDataset(*part) for name, part in PARTS.items()},
    "streams": lambda: {name: DatasetPart(TensorDataset(*part), threads=2, limit=0) for name, part in PARTS.items()},
}
SEARCHES = {
    "one base": {},
    "moved bases": {"inits": ["pissa"]},
    "statistics": {"inits": ["qera"]},
    "random starts": {"inits": ["random"]},
    "a teacher": {"loss": {"method": "distillation"}},
}


def through_pickle(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))


def make(kind: str = "tensors", metric: str = "accuracy", **search: object) -> Objective:
    task = Task(make_task().model, **TASKS[kind](), metric=metric)
    return make_objective(make_spec(**{"epochs": 1, **search}), task)


def accuracies(objective: Objective, trials: int = 4, jobs: int = 1) -> dict[tuple[object, ...], float | None]:
    """The value of each of some trials, by what they tried."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    init = objective.combination.search.inits[0].name
    for index in range(trials):
        values = {"rank": 1 + index % 2, "init": init, "alpha": 4.0, "batch_size": 16 << index % 2}
        study.enqueue_trial({**values, "optimizer": "adam", "lr": 10.0 ** -(1 + index / 2)})
    study.optimize(objective, n_trials=trials, n_jobs=jobs)
    return {tuple(trial.params.values()): trial.value for trial in study.trials}


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_copy_of_an_objective_gives_the_same_trials_before_and_after_use(copied, search):
    objective = make(**SEARCHES[search])
    fresh = copied(objective)
    expected = accuracies(objective)
    assert accuracies(fresh) == accuracies(copied(objective)) == expected
    assert None not in expected.values()


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("metric", ["accuracy", "agreement"])
def test_tasks_of_every_kind_can_be_copied_before_and_after_use(kind, metric):
    objective = make(kind, metric)
    task = objective.combination.task
    for _ in range(2):
        for again in (copy.deepcopy(task), through_pickle(task)):
            assert dict(again.hashes) == dict(task.hashes)
            assert torch.equal(again.train.labels, task.train.labels)
            assert torch.equal(next(again.val.batches(9))[0], next(task.val.batches(9))[0])
        expected = accuracies(objective)
    assert accuracies(copy.deepcopy(objective)) == expected


def test_a_data_set_that_is_in_memory_is_not_needed_any_more():
    class Rows:
        def __init__(self) -> None:
            self.connection = sqlite3.connect(":memory:")  # which nobody can pickle

        def __len__(self) -> int:
            return 96

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            images, labels = PARTS["train"]
            return images[index], int(labels[index])

    task = Task(Mlp(), **{**PARTS, "train": Rows()})
    assert torch.equal(through_pickle(task).train.labels, PARTS["train"][1])


@pytest.mark.parametrize(
    ("kind", "search"), [*((kind, "one base") for kind in TASKS), *(("tensors", search) for search in SEARCHES)]
)
def test_two_jobs_give_what_one_gives(kind, search):
    assert accuracies(make(kind, **SEARCHES[search]), jobs=2) == accuracies(make(kind, **SEARCHES[search]))


def optimize(url: str, objective: Objective) -> None:
    optuna.load_study(study_name="s", storage=url).optimize(objective, n_trials=1)


@pytest.mark.parametrize(("method", "count"), [("spawn", 1), ("fork", 2)])
def test_processes_share_a_study_with_the_objective_that_they_are_given(method, count, tmp_path):
    url, objective = f"sqlite:///{tmp_path}/shared.db", make("data sets")
    accuracies(objective, 1)
    optuna.create_study(study_name="s", storage=url, direction="maximize")
    with multiprocessing.get_context(method).Pool(count) as pool:
        pool.starmap(optimize, [(url, objective)] * 2)
    states = [trial.state.name for trial in optuna.load_study(study_name="s", storage=url).trials]
    assert states == ["COMPLETE"] * 2
