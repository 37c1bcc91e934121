"""A small network of one's own on a few images, and its way from a trial to a loaded checkpoint."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn

import pipeline
from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.search_spec import SearchSpec

IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % 4


class Net(nn.Module):
    """A convolution, a hidden layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(self.conv(x).relu().mean((2, 3))).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def given(model: nn.Module) -> pipeline.Task:
    part = (IMAGES, LABELS)
    return pipeline.Task(model, train=part, val=part, test=part)


def objective_of(
    model: nn.Module,
    targets: Sequence[Any] = ("*",),
    adapter: str = "lora",
    compression: str = "int1",
    task: pipeline.Task | None = None,
) -> pipeline.Objective:
    combination = CombinationSpec.model_validate(
        {"name": "c", "compression": compression, "adapter": adapter, "targets": list(targets)}
    )
    search = {"ranks": [1], "inits": ["paper"], "alpha": 8.0, "optimizer": ["sgd"], "lr": 0.02, "batch_size": [16]}
    spec = SearchSpec.model_validate({**search, "epochs": 2, "trials": 1, "sampler": {"method": "random"}})
    return pipeline.Objective(task or given(model), combination, spec)


def trained(objective: pipeline.Objective) -> optuna.trial.FrozenTrial:
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=1)
    return study.best_trial


def round_trip(
    build: Callable[[], nn.Module],
    targets: Sequence[Any] = ("*",),
    adapter: str = "lora",
    bare: Callable[[], nn.Module] | None = None,
) -> dict[str, Any]:
    """Train, save and load a model; the loaded one repeats the trial's accuracy. Returns the card."""
    objective = objective_of(seeded(build), targets, adapter)
    trial = trained(objective)
    pipeline.save(objective, trial, "saved", force=True)
    loaded = pipeline.load("saved", model=(bare or build)())
    with torch.no_grad():
        accuracy = (loaded(IMAGES).argmax(1) == LABELS).float().mean().item()
    assert accuracy == pytest.approx(trial.value, abs=1e-6)
    return json.loads(Path("saved/card.json").read_text(encoding="utf-8"))
