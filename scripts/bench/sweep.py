"""The published sweep by this package: with features cached already and nothing pruned, and as ``restora run`` does."""

import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch

from bench.parts import Measured, Setup
from bench.published import configurations, seconds_per_batch, seconds_per_validation_batch, trial_epoch_seconds
from bench.search import TimedObjective, search_seconds
from bench.sizes import Sizes
from bench.tasks import EPOCHS, TRAIN, VAL, head_task, resnet_task, study, train_all
from pipeline.config.spec import ComputeSpec
from pipeline.environment import keep_freed_memory
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass
from pipeline.space import Values
from pipeline.train.cache.feature_cache import FeatureCache

PUBLISHED_TRIALS = 280


def published_trial_epoch(sizes: Sizes) -> dict[str, float]:
    """Seconds of one epoch of one trial the published way, extrapolated from some training and validation batches."""
    training = seconds_per_batch(sizes.batch_size, 8, sizes.batches)
    validation = seconds_per_validation_batch(sizes.batch_size, 8, sizes.batches)
    return {
        "seconds": trial_epoch_seconds(training, validation),
        "training_images_per_second": training.images_per_second,
        "validation_images_per_second": validation.images_per_second,
        "spread_of_a_training_batch": training.spread,
        "training_batch": training.median,
    }


def whole_sweep(sizes: Sizes) -> dict[str, Any]:
    """Train all configurations, none pruned: from cached features to the accuracy of every trial."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        task, spec = head_task(Path(folder), sizes.train, sizes.val, sizes.classes), study(["int1", "sparse"])
        started, lanes = time.perf_counter(), []
        for combination in spec.combination:
            chosen = [c for c in configurations(trials=sizes.trials) if c.compression == combination.compression.name]
            values = [Values(c.rank, c.init, c.alpha, c.optimizer, c.lr, c.batch_size) for c in chosen]
            lanes += train_all(Objective(task, combination, spec.search), values, sizes.epochs)
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "trials": len(lanes),
        "epochs": sizes.epochs,
        "trial_epoch_seconds": seconds / len(lanes) / sizes.epochs,
        "failed": sum(lane.failure is not None for lane in lanes),
        "best": max(lane.best for lane in lanes if lane.curve),
    }


def pruned_sweep(sizes: Sizes) -> dict[str, Any]:
    """Spend the same budget as ``restora run`` does: asked by TPE, pruned by halving, stored in SQLite."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        task = head_task(Path(folder), sizes.train, sizes.val, sizes.classes)
        spec = study(["int1", "sparse"], epochs=sizes.pruned_epochs, trials=sizes.trials)
        started = time.perf_counter()
        searches = [search_seconds(TimedObjective(task, combined, spec.search)) for combined in spec.combination]
        seconds = time.perf_counter() - started
    searching, training = (sum(search[key] for search in searches) for key in ("seconds", "training"))
    return {
        "seconds": seconds,
        "epochs": sizes.pruned_epochs,
        "trials": sum(search["trials"] for search in searches),
        "pruned": sum(search["pruned"] for search in searches),
        "best": max(search["best"] for search in searches),
        "storage_share": (searching - training) / seconds,
    }


def cache_cost(images: int) -> dict[str, float]:
    """Images per second of the one pass through the frozen layers, writing included; and whether caching alters losses.

    Returns:
        ``images_per_second``, and ``largest_relative_difference_of_losses`` of two trials with and without the cache.
    """
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        task, spec = resnet_task(images), study(["int1"], ["fc"], batch_size=[32], ranks=[8], trials=10)
        cached, uncached = (
            Objective.of(Combination(task, spec.combination[0], spec.search), compute, FeatureCache(Path(folder)))
            for compute in (ComputeSpec(), ComputeSpec(cache="off"))
        )
        started = time.perf_counter()
        cached.bases.common.source("train")
        seconds = time.perf_counter() - started
        values = [Values(8, "svd", 16.0, name, 1e-3, 32) for name in ("adam", "sgd")]
        pair = [train_all(objective, values, 1, Pass(0, lanes=2)) for objective in (cached, uncached)]
        losses = [torch.tensor([lane.curve[0].train_loss for lane in lanes], dtype=torch.float64) for lanes in pair]
    return {
        "images_per_second": images / seconds,
        "largest_relative_difference_of_losses": float(((losses[0] - losses[1]) / losses[1]).abs().max()),
    }


def frozen(setup: Setup) -> Measured:
    """The published sweep with the frozen layers run in every step, and with their outputs cached."""
    sizes = setup.sizes
    published, package = setup.measure(published_trial_epoch, sizes), setup.measure(whole_sweep, sizes)
    cache, images = setup.measure(cache_cost, sizes.cached_images), TRAIN + VAL
    speedup = published["seconds"] / package["trial_epoch_seconds"]
    cache_minutes = images / cache["images_per_second"] / 60
    sweep_minutes = package["trial_epoch_seconds"] * PUBLISHED_TRIALS * EPOCHS / 60
    days = published["seconds"] * PUBLISHED_TRIALS * EPOCHS / 86400
    return Measured(
        {
            "published": published,
            "sweep": package,
            "cache": cache,
            "frozen_speedup": speedup,
            "cache_minutes": cache_minutes,
            "sweep_minutes": sweep_minutes,
            "published_sweep_days": days,
        },
        {
            "frozen_speedup": f"seconds of one epoch of one trial, {TRAIN:,} training and {VAL:,} validation images: "
            f"the published way ({sizes.batches} batches of {sizes.batch_size} of each timed after 3, extrapolated by "
            f"images) over this way (the sweep's {package['trials']} trials, {sizes.epochs} of {EPOCHS} epochs "
            f"trained, compression and starts included)",
            "cache_minutes": f"one pass of {images:,} images through the frozen layers, extrapolated from "
            f"{sizes.cached_images}, files written",
            "sweep_minutes": f"all {PUBLISHED_TRIALS} published configurations, {EPOCHS} epochs, none pruned, with "
            f"features cached already; extrapolated from {sizes.epochs} epochs",
            "published_sweep_days": "the same, by the published way's seconds of one epoch of one trial",
        },
        [
            ("one epoch of one trial, published way", f"{published['seconds']:,.0f} s"),
            ("the same, this way", f"{package['trial_epoch_seconds']:.3f} s: {speedup:,.0f} times less"),
            ("the cache, once", f"{cache_minutes:.0f} min ({cache['images_per_second']:.0f} images/s)"),
            ("the published sweep, published way", f"{days:.0f} days"),
            ("the published sweep, this way", f"{sweep_minutes:.1f} min"),
        ],
    )


def pruned(setup: Setup) -> Measured:
    """The published sweep's budget, spent as ``restora run`` does."""
    run = setup.measure(pruned_sweep, setup.sizes)
    minutes, share = run["seconds"] / 60, run["storage_share"]
    return Measured(
        {"run": run, "run_minutes": minutes, "storage_share": share},
        {
            "run_minutes": f"the same budget as `restora run` spends it: 28 cells of {setup.sizes.trials} trials, "
            f"{run['epochs']} epochs, asked by TPE, pruned by halving, stored in SQLite",
            "storage_share": "seconds of the search in which no cohort trains (asks, starts, reports, tells, the "
            "database, kept adapters) over all seconds of that run",
        },
        [
            (f"its budget in a run with pruning, {run['epochs']} epochs", f"{minutes:.1f} min"),
            ("asks, tells and database in that run", f"{share:.1%}"),
        ],
    )
