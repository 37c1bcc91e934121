"""The published experiment: restoring the compressed 512 -> 1000 head of torchvision's resnet18 on ImageNet.

In every step of every trial the frozen backbone runs again on a batch of images from a ``DataLoader``; the head
``x Q^T + b + s (x A^T) B^T`` follows, and its ``A`` and ``B`` alone are trained. One trial after another.

Images here are random bytes, already 224 x 224, made floats and normalised one by one as a data set would: decoding and
resizing files, which the experiment had to do as well, take no time. Weights are random too; the time depends on
neither.
"""

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

from bench.plain_loop import LoraLinear, set_int1

Compression: TypeAlias = Literal["int1", "sparse"]
Init: TypeAlias = Literal["paper", "svd"]

COMPRESSIONS: tuple[Compression, ...] = ("int1", "sparse")
INITS: tuple[Init, ...] = ("paper", "svd")
RANKS = (2, 4, 8, 16, 32, 64, 128)
TRIALS = 10
"""Trials per compression, init and rank."""
TRAINING_IMAGES = 32_000
VALIDATION_IMAGES = 8_000
DISTINCT_IMAGES = 256
NUM_WORKERS = 0
"""Workers of the loader. Two are no faster on two cores (35.0 and 35.2 images/s at batch 32, 30.2 and 30.3 at 128).

They would take from the backbone what they save, 0.6 ms an image of 30, and the last batches would be loaded for free.
"""
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """One trial of the published sweep."""

    compression: Compression
    init: Init
    rank: int
    trial: int
    alpha: float
    optimizer: Literal["adam", "sgd"]
    lr: float
    batch_size: int
    epochs: int = 10


def configurations(seed: int = 0, trials: int = TRIALS) -> list[Configuration]:
    """The published sweep, 2 compressions x 2 inits x 7 ranks x 10 trials; values are drawn from ``seed``."""
    rng = random.Random(seed)
    return [
        Configuration(
            compression=compression,
            init=init,
            rank=rank,
            trial=trial,
            alpha=rng.uniform(8, 48),
            optimizer=rng.choice(("adam", "sgd")),
            lr=math.exp(rng.uniform(math.log(1e-4), math.log(1e-2))),
            batch_size=rng.choice((32, 64, 128, 256, 512)),
        )
        for compression, init, rank, trial in itertools.product(COMPRESSIONS, INITS, RANKS, range(trials))
    ]


class RandomImages(Dataset[tuple[Tensor, Tensor]]):
    """``length`` labelled images ``[3, 224, 224]``, of which 256 are distinct."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._pixels = torch.randint(256, (DISTINCT_IMAGES, 3, 224, 224), dtype=torch.uint8)
        self._labels = torch.randint(1000, (DISTINCT_IMAGES,))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = index % DISTINCT_IMAGES
        return self._pixels[row].float().div_(255).sub_(MEAN).div_(STD), self._labels[row]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds a batch, from the end of the batch before to its own end, so that waiting for its images counts."""

    median: float
    spread: float
    """Interquartile range, in seconds."""
    images_per_second: float
    """Images of a batch over the median."""


def _model(rank: int) -> tuple[nn.Module, LoraLinear]:
    """Backbone, its head taken off, and the adapted int1 head; all in eval mode, as frozen parts are."""
    backbone = resnet18(weights=None).eval().requires_grad_(False)
    head = backbone.fc
    set_int1(head)
    backbone.fc = nn.Identity()
    return backbone, LoraLinear(head, rank, alpha=16)


def _time(step: Callable[[Tensor, Tensor], object], batch_size: int, batches: int, warmup: int) -> Timing:
    loader = DataLoader(
        RandomImages((warmup + batches) * batch_size), batch_size, shuffle=True, num_workers=NUM_WORKERS
    )
    ends = []
    for images, labels in loader:
        step(images, labels)
        ends.append(time.perf_counter())
    seconds = [end - start for start, end in itertools.pairwise(ends[warmup - 1 :])]
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median=median, spread=high - low, images_per_second=batch_size / median)


def seconds_per_batch(batch_size: int, rank: int, batches: int = 20, warmup: int = 3) -> Timing:
    """Times ``batches`` training batches after ``warmup`` (at least 1) that are not counted.

    Counted: images from the loader, forward pass of the backbone without gradients, head, cross-entropy, backward pass
    of the head, Adam's update. Torch's threads are left as the caller set them.
    """
    backbone, head = _model(rank)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            features = backbone(images)
        loss = F.cross_entropy(head(features), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return _time(step, batch_size, batches, warmup)


def seconds_per_validation_batch(batch_size: int, rank: int, batches: int = 20, warmup: int = 3) -> Timing:
    """The same for validation batches: images from the loader, backbone, head, and the count of correct answers."""
    backbone, head = _model(rank)

    @torch.no_grad()
    def step(images: Tensor, labels: Tensor) -> int:
        return int((head(backbone(images)).argmax(1) == labels).sum())

    return _time(step, batch_size, batches, warmup)


def trial_epoch_seconds(training: Timing, validation: Timing) -> float:
    """Seconds of one epoch of one trial, extrapolated from timed batches, not measured.

    32,000 training and 8,000 validation images at the timed rates; starting an epoch is taken to cost nothing.
    """
    return TRAINING_IMAGES / training.images_per_second + VALIDATION_IMAGES / validation.images_per_second
