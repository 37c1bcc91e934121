"""The published sweep, this way: from a ready cache, none pruned; and the same budget as ``restora run`` spends it."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.published import configurations, seconds_per_batch, seconds_per_validation_batch, trial_epoch_seconds
from bench.storage import searched
from bench.tasks import EPOCHS, head_task, resnet_task, study, train_all
from pipeline.config.spec import ComputeSpec
from pipeline.environment import keep_freed_memory
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass
from pipeline.run.study_run import make_objectives
from pipeline.space import Values
from pipeline.train.cache.feature_cache import FeatureCache


def published_trial_epoch() -> dict[str, float]:
    """Seconds that one epoch of one trial takes the published way, from 20 batches of training and 20 of validation."""
    training, validation = seconds_per_batch(32, rank=8), seconds_per_validation_batch(32, rank=8)
    return {
        "seconds": trial_epoch_seconds(training, validation),
        "training_images_per_second": training.images_per_second,
        "validation_images_per_second": validation.images_per_second,
        "spread_of_a_training_batch": training.spread,
        "training_batch": training.median,
    }


def whole_sweep(epochs: int) -> dict[str, Any]:
    """All 280 configurations for some epochs, none pruned: from a ready cache to every trial's accuracy."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        task, spec = head_task(Path(folder)), study(["int1", "sparse"])
        started, lanes = time.perf_counter(), []
        for combination in spec.combination:
            chosen = [each for each in configurations() if each.compression == combination.compression.name]
            values = [Values(c.rank, c.init, c.alpha, c.optimizer, c.lr, c.batch_size) for c in chosen]
            lanes += train_all(Objective(task, combination, spec.search), values, epochs)
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "trials": len(lanes),
        "epochs": epochs,
        "trial_epoch_seconds": seconds / len(lanes) / epochs,
        "failed": sum(lane.failure is not None for lane in lanes),
        "best": max(lane.best for lane in lanes if lane.curve),
    }


def pruned_sweep(epochs: int = EPOCHS) -> dict[str, Any]:
    """The same budget as ``restora run`` spends it: asked by TPE, pruned by halving, stored in SQLite."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        task, spec = head_task(Path(folder)), study(["int1", "sparse"], epochs=epochs)
        started = time.perf_counter()
        spent = [searched(objective, Path(folder)) for objective in make_objectives(spec, task, "cpu").values()]
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "trials": sum(each["trials"] for each in spent),
        "pruned": sum(each["pruned"] for each in spent),
        "best": max(each["best"] for each in spent),
        "storage_share": sum(each["database"] + each["asks"] for each in spent) / seconds,
    }


def cache_cost(images: int = 256) -> dict[str, float]:
    """Images a second of the one pass through the frozen layers, files included; and that it changes no result."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        task, spec = resnet_task(images), study(["int1"], ["fc"], batch_size=[32], ranks=[8], trials=10)
        cut, whole = (
            Objective(
                task,
                spec.combination[0],
                spec.search,
                compute,
                features=FeatureCache(Path(folder)),
            )
            for compute in (ComputeSpec(), ComputeSpec(cache="off"))
        )
        started = time.perf_counter()
        cut.common.source("train")
        seconds = time.perf_counter() - started
        values = [Values(8, "svd", 16.0, name, 1e-3, 32) for name in ("adam", "sgd")]
        pair = [train_all(objective, values, 1, Pass(0, lanes=2)) for objective in (cut, whole)]
        losses = [torch.tensor([lane.curve[0].train_loss for lane in lanes], dtype=torch.float64) for lanes in pair]
    return {
        "images_per_second": images / seconds,
        "largest_relative_difference_of_losses": float(((losses[0] - losses[1]) / losses[1]).abs().max()),
    }
