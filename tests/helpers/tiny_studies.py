"""A task of four blobs and a 16-12-4 perceptron, and the pieces of a study over it."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from pipeline.adapt.lanes import Lanes, attach
from pipeline.cell import Cell, cell_of
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.config.search_spec import SearchSpec
from pipeline.config.spec import StudySpec
from pipeline.config.study_file import parse_spec, pinned
from pipeline.guard import Guard
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass
from pipeline.results.progress import Progress
from pipeline.run.study_facts import study_facts
from pipeline.run.winners import measure_references
from pipeline.search.coordinator import Coordinator
from pipeline.search.events import Events
from pipeline.store.database import Database
from pipeline.store.kept_adapters import Kept
from pipeline.store.stored_study import create_or_resume, study_name
from pipeline.task.contract import Task
from pipeline.task.parts import Part
from pipeline.train.lane import Lane

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that a budget counts."""
SEARCH: dict[str, Any] = {
    "ranks": [1, 2],
    "inits": ["paper", "svd"],
    "alpha": {"low": 1, "high": 8, "log": True},
    "optimizer": ["adam", "sgd"],
    "lr": {"low": 1e-3, "high": 1e-1, "log": True},
    "batch_size": [16, 32],
    "epochs": 3,
    "trials": 6,
    "ask_ahead": 3,
    "sampler": {"method": "tpe", "startup": 3},
    "pruner": {"method": "halving", "first": 1, "factor": 3},
}


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` noisy points around four fixed centres, and which centre each is of."""
    centres = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    return centres[labels] + 1.5 * torch.randn(count, 16, generator=generator), labels


class Mlp(nn.Module):
    """A user's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


class BatchNormNet(nn.Module):
    """A user's own convolutions, one of them grouped, with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x.reshape(-1, 1, 4, 4))))
        return self.head(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class ResidualNet(nn.Module):
    """Convolutions and batch norms around an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.stem(x.reshape(-1, 1, 4, 4))))
        return self.head(torch.relu(x + self.bn2(self.conv(x))).mean((2, 3)))


def trained(model: nn.Module, steps: int = 60) -> nn.Module:
    images, labels = blobs(96, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


@functools.cache
def make_task(module: type[nn.Module] = Mlp) -> Task:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = trained(module())
    return Task(model, train=blobs(96, 1), val=blobs(80, 2), test=blobs(80, 3))


def make_spec(
    name: str = "tiny",
    seed: int = 0,
    combination: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    storage: dict[str, Any] | None = None,
    **search: Any,
) -> StudySpec:
    """A study of one combination; ``search`` takes the place of what ``SEARCH`` says."""
    table = {
        "name": name,
        "seed": seed,
        # What the task says of itself is pinned; the tasks of these tests come from tensors.
        "task": task or {"model": {"source": "mlp", "widths": [16, 12, 4]}, "data": "mnist-subset"},
        "combination": [{"name": "int1-lora", "compression": "int1", "adapter": "lora", **(combination or {})}],
        "search": {**SEARCH, **search},
        **({"storage": storage} if storage else {}),
    }
    return parse_spec(table, "test")


def make_search(**changes: Any) -> SearchSpec:
    return make_spec(**changes).search


def make_objective(spec: StudySpec | None = None, task: Task | None = None) -> Objective:
    spec = spec or make_spec()
    return Objective(task or make_task(), spec.combination[0], spec.search, seed=spec.seed)


def failing(objective: Objective, fails: Callable[[Lane], bool]) -> Objective:
    """Lets the lanes that ``fails`` chooses fail at the end of each of their epochs."""
    train_epoch = objective.train_epoch

    def failing_epoch(lanes: list[Lane]) -> None:
        train_epoch(lanes)
        for lane in lanes:
            if fails(lane):
                lane.failure = "the test said so"

    objective.train_epoch = failing_epoch  # type: ignore[method-assign]
    return objective


def adapted(objective: Objective, parameters: dict[str, torch.Tensor], alpha: float) -> nn.Module:
    """The whole compressed model with one lane's adapter: what an exported checkpoint computes."""
    model = copy_sharing_tensors(objective.combination.compressed.model)
    lanes = Lanes([({name: t[None] for name, t in parameters.items()}, [alpha])])
    attach(model, objective.combination.adapter, lanes, objective.combination.compressed.weights)
    return model


def count_correct(model: nn.Module, part: Part) -> int:
    """The number of images whose class a whole model ranks first, every image taken through all of it."""
    with torch.inference_mode():
        return int(sum((model(images).argmax(1) == labels).sum() for images, labels in part.batches(256)))


def measure(model: nn.Module, part: Part) -> list[int]:
    """``[correct, images]`` of a whole model."""
    return [count_correct(model, part), len(part)]


class Shown(Events):
    """Keeps what a search tells of its progress."""

    def __init__(self, progress: list[Progress]) -> None:
        self.progress = progress

    def progressed(self, combination: str, progress: Progress) -> None:
        self.progress.append(progress)


def stored_study(storage: Database, spec: StudySpec, objective: Objective) -> optuna.Study:
    """The stored study of a spec's one combination, created or resumed."""
    combination = spec.combination[0]
    name, hashes = study_name(spec.name, combination.name), dict(objective.combination.task.hashes)
    study = create_or_resume(storage, name, pinned(spec, combination), hashes, study_facts(spec, objective.combination))
    measure_references(objective, study, "val")
    return study


def search(
    storage: Database,
    spec: StudySpec | None = None,
    *,
    objective: Objective | None = None,
    cohort: int = 4,
    guard: Guard | None = None,
    shown: list[Progress] | None = None,
) -> optuna.Study:
    """Run a spec's one combination to the end, as ``run_study`` does."""
    spec = spec or make_spec()
    objective = objective or make_objective(spec)
    study = stored_study(storage, spec, objective)
    events = Shown([] if shown is None else shown)
    with guard or Guard():
        Coordinator(objective, study, kept_of(spec), Pass(0, lanes=cohort), events).run()
    return study


def kept_of(spec: StudySpec) -> Kept:
    return Kept(spec.name, spec.combination[0].name)


def by_cell(trials: Iterable[FrozenTrial]) -> dict[Cell, list[FrozenTrial]]:
    """Trials of each cell, in the order in which they were asked for; interrupted ones are left out."""
    cells: dict[Cell, list[FrozenTrial]] = {}
    for trial in trials:
        if "interrupted" not in trial.user_attrs:
            cells.setdefault(cell_of(trial.params), []).append(trial)
    return {cell: sorted(own, key=lambda t: t.user_attrs["ask"]) for cell, own in sorted(cells.items())}


def asks(study: optuna.Study) -> dict[Cell, list[tuple[Any, ...]]]:
    """What each cell asked for: origin and values, in order."""
    return {
        cell: [(trial.user_attrs["origin"], trial.params) for trial in trials]
        for cell, trials in by_cell(study.trials).items()
    }


def outcomes(study: optuna.Study) -> dict[Cell, list[tuple[Any, ...]]]:
    """What each ask of each cell came to: its state, and its accuracy after each epoch."""
    return {
        cell: [(trial.state.name, trial.intermediate_values) for trial in trials]
        for cell, trials in by_cell(study.trials).items()
    }
