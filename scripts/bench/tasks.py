"""The tasks that both sides of the benchmark share, and the trials that this package trains."""

import functools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from pipeline.config.spec import StudySpec
from pipeline.config.study_file import parse_spec
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass, measure_pass, pack
from pipeline.space import Values
from pipeline.task.contract import Task
from pipeline.train.lane import Lane
from pipeline.train.loop import side_by_side, workers

EPOCHS = 10
FEATURES, CLASSES = 512, 1000
TRAIN, VAL = 32_000, 8_000
RANKS = (2, 4, 8, 16, 32, 64, 128)
BATCHES = (32, 64, 128, 256, 512)


def study(compressions: Sequence[str], targets: Sequence[str] = (), **search: Any) -> StudySpec:
    """A study with LoRA on every layer, or on the given targets; its task is built by the caller."""
    defaults = {
        "ranks": list(RANKS),
        "inits": ["paper", "svd"],
        "alpha": {"low": 8, "high": 48},
        "optimizer": ["adam", "sgd"],
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": list(BATCHES),
        "epochs": EPOCHS,
        "trials": 10,
    }
    table = {
        "name": "benchmark",
        "task": {"model": {"source": "mlp", "widths": [784, 256, 128, 10]}, "data": "mnist"},
        "combination": [
            {"name": f"{name}-lora", "compression": name, "adapter": "lora", "targets": list(targets) or ["*"]}
            for name in compressions
        ],
        "search": {**defaults, **search},
    }
    return parse_spec(table, "benchmark")


def mapped(folder: Path, name: str, tensor: Tensor) -> Tensor:
    """The same tensor, mapped from a new file in ``folder``."""
    path = folder / name
    path.write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    whole: Tensor = torch.from_file(str(path), shared=False, size=tensor.numel(), dtype=tensor.dtype)
    return whole.view(tensor.shape)


def head_task(folder: Path, train: int = TRAIN, val: int = VAL, classes: int = CLASSES) -> Task:
    """A linear head over features that are cached already, mapped from a file in ``folder``.

    Features are positive and of low effective rank, like those behind a ReLU and pooling. Labels are the predictions of
    the dense head with noise, so that compression loses accuracy and adapters can restore it.

    Args:
        folder: Where the file of features is written.
        train: Training images; at least as many as classes.
        val: Validation images.
        classes: Outputs of the head, which has 512 inputs.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, FEATURES, generator=generator)
    features = (torch.randn(train + val, 64, generator=generator) @ directions / 8).relu_()
    model = nn.Sequential(OrderedDict(fc=nn.Linear(FEATURES, classes)))
    with torch.no_grad():
        model.fc.weight.copy_(torch.randn(classes, FEATURES, generator=generator) / 16)
        model.fc.bias.zero_()
        noisy = model(features) + torch.randn(len(features), classes, generator=generator)
    labels = noisy.argmax(1)
    labels[:classes] = torch.arange(classes)  # every class has an image
    images = mapped(folder, "features.bin", features)
    parts = [(images[:train], labels[:train]), (images[train:], labels[train:])]
    return Task(model, parts[0], parts[1], parts[1], description={"classes": classes})


def train_all(objective: Objective, values: Sequence[Values], epochs: int, size: Pass | None = None) -> list[Lane]:
    """Train every set of values for the given epochs in cohorts, as a run does; nothing is pruned."""
    size = size or measure_pass(objective)
    lanes = [objective.lane(chosen) for chosen in values]
    device = objective.recipe.device
    for _ in range(epochs):
        cohorts = pack([lane for lane in lanes if lane.failure is None], size, workers(device))
        side_by_side([functools.partial(objective.train_epoch, cohort) for cohort in cohorts], device)
    return lanes


def resnet_task(images: int) -> Task:
    """Torchvision's resnet18 with random weights, on random images of 224 px; only its head is compressed."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, 224, 224, generator=generator)
    labels = torch.arange(images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet18(num_classes=images)  # every class has an image
    part = (pixels, labels)
    return Task(model, part, (pixels[:32], labels[:32]), (pixels[:32], labels[:32]))
