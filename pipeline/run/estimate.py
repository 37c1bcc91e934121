"""What a run would do, and what it would take; nothing is changed by asking."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.config.spec import StudySpec
from pipeline.environment import keep_freed_memory, peak_memory
from pipeline.errors import SpecError
from pipeline.guard import Guard
from pipeline.objective.allocation import is_lossy
from pipeline.objective.objective import Objective, make_features
from pipeline.objective.passes import PROBED, measure_pass
from pipeline.objective.scores import ERROR_IMAGES, SCORE_IMAGES, ranked, score_cells
from pipeline.run.study_run import make_objectives, refuse_misfits, said_of, trained_objectives
from pipeline.run.winner_spectra import watched_layers
from pipeline.space import cells
from pipeline.task import prepare

logger = logging.getLogger(__name__)

TRIAL_BYTES = 10_000
"""What a trial takes in the database, measured on SQLite with ten epochs, and the picture of its curves."""
HEADER_BYTES = 2_000
"""About what the header of an exported file takes."""


TARGETS_FIT = "targets and ranks fit"


def targets_fit(spec: StudySpec) -> tuple[str, bool, str]:
    """A tick of ``check``: whether every combination's targets are there, and can take the ranks."""
    try:
        task = prepare(spec.task, train_baseline=False)
        watched_layers(spec, task.model)
        objectives = make_objectives(spec, task, "cpu")
        refuse_misfits(objectives, cheaply=True)
    except SpecError as error:
        return TARGETS_FIT, False, str(error)
    said = ", ".join(f"{name}: {len(objective.targets)} layers" for name, objective in objectives.items())
    return TARGETS_FIT, True, said


def _allocation(objective: Objective) -> dict[str, Any] | None:
    """How budgets are spread, and by whose spectra: of what was lost, or of the weights where nothing was."""
    spec = objective.search.allocation
    if spec is None:
        return None
    return {**spec.model_dump(), "spectra": "residual" if is_lossy(objective.compressed) else "weight"}


@dataclass(frozen=True)
class RankPlan:
    """What every trial of a rank has in common."""

    rank: int
    trainable: int
    bytes: int
    ratio: float
    layer_ratio: float
    published_ratio: float
    """Of the whole model, as published: without index bits, scales and buffers."""
    macs_ratio: float
    clipped: dict[str, int]
    """Layers that take less than the rank, with what they take."""
    spread: dict[str, int] | None
    """What each layer takes of a budget, 0 where it gets no adapter; none where every layer has the rank."""
    larger: list[str]
    """Layers whose adapter holds more numbers than their dense weight."""
    dense: list[str]
    """Layers that stay dense, because the compression would not shrink them or the adapter trains them whole."""
    tensors: dict[str, int]
    """Bytes of each packed tensor of the compressed layers."""


def plan_rank(objective: Objective, rank: int) -> RankPlan:
    """Sizes at a rank, exact before training."""
    facts, spread = objective.facts(rank), objective.search.allocation is not None
    layers = facts.size.layers
    stay = [] if objective.combination.compression.name == "none" else [n for n, own in layers.items() if own.is_dense]
    return RankPlan(
        rank=rank,
        trainable=facts.trainable,
        bytes=facts.size.bytes,
        ratio=facts.size.ratio,
        layer_ratio=facts.size.layer_ratio,
        published_ratio=facts.size.published_ratio(),
        macs_ratio=facts.dense_macs / facts.macs,
        clipped={} if spread else {name: r for name, r in facts.ranks.items() if r < rank},
        spread={name: facts.ranks.get(name, 0) for name in layers} if spread else None,
        larger=[name for name, layer in layers.items() if layer.adapter >= layer.dense],
        dense=stay,
        tensors={
            f"{name}.{kind}": bits // 8
            for name, layer in layers.items()
            for kind, bits in {
                "payload": layer.base.payload,
                "index": layer.base.index,
                "scale": layer.base.scale,
                "adapter": layer.adapter,
            }.items()
            if bits
        },
    )


EVALUATED = 1 / 3
"""What an image takes in an evaluation, beside one in training: of three products forward and back, one."""


@dataclass(frozen=True)
class CachePlan:
    """What the frozen layers before the first trained one cost, and the logits of a teacher.

    Args:
        said: Where the model is cut, or why it is not; where cells adapt other layers, that of the highest rank.
        bytes: Of all parts' caches on disk.
        missing_bytes: Of those that are not there yet.
        seconds: To build those.
    """

    said: str
    bytes: int = 0
    missing_bytes: int = 0
    seconds: float = 0.0


def plan_cache(objective: Objective, counted: set[str]) -> CachePlan:
    """Sizes are exact; the time is that of a few images.

    Args:
        objective: What would train.
        counted: Keys of caches that were counted for another combination; those of this one are added.
    """
    task, teacher, wanted = objective.task, objective.teacher, list[tuple[nn.Module, str]]()
    for base in objective.bases:
        stem = base.program.cut.stem if base.program.cut else None
        wanted += [(stem, name) for name in ("train", "val", "test")] if stem else []
    said = said_of(objective.common.program)
    if teacher and objective.recipe.compute.cache != "off":
        wanted += [(teacher, name) for name in ("train", "val")]
        said += "; the uncompressed model's logits are kept for distillation"
    images, _ = next(iter(task.train.batches(PROBED, torch.arange(min(PROBED, len(task.train))))))
    each = {module: _seconds(module, images.to(objective.recipe.device)) / len(images) for module, _ in wanted}
    size, missing, seconds = 0, 0, 0.0
    for module, name in wanted:
        part, facts = getattr(task, name), objective.common.feature_facts(name)
        key = objective.features.key(module, facts)
        if key in counted:
            continue
        counted.add(key)
        own, there = objective.features.plan(module, part, facts)
        size += own
        missing += 0 if there else own
        seconds += 0 if there else each[module] * len(part)
    return CachePlan(said=said, bytes=size, missing_bytes=missing, seconds=round(seconds, 1))


@torch.no_grad()
def _seconds(module: nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    module(images)
    return time.perf_counter() - started


def plan_scores(objective: Objective) -> dict[str, Any]:
    """The score of every cell before any training, the best first, and what scoring took."""
    started = time.perf_counter()
    scores = ranked(score_cells(objective))
    return {
        "images": scores[0].images if scores else 0,
        "error_images": min(ERROR_IMAGES, len(objective.task.train)),
        "seconds": round(time.perf_counter() - started, 1),
        "cells": [
            {
                "rank": score.cell.rank,
                "init": score.cell.init,
                "accuracy": score.accuracy,
                "output_error": score.output_error,
            }
            for score in scores
        ],
    }


def objectives_to_plan(spec: StudySpec, device: str, *, score: bool) -> dict[str, Objective]:
    """The objectives of a study; a missing baseline is trained only if cells are to be scored."""
    if not score:
        objectives = make_objectives(spec, prepare(spec.task, device=device, train_baseline=False), device)
        refuse_misfits(objectives)
        return objectives
    with Guard():
        objectives = trained_objectives(spec, device, make_features(spec.compute, device))
    logger.info(f"scoring: each cell takes up to {SCORE_IMAGES} validation and {ERROR_IMAGES} training images")
    return objectives


def plan_study(spec: StudySpec, objectives: dict[str, Objective], *, score: bool = False) -> dict[str, Any]:
    """Cells, trials, sizes, memory, disk and time of a study, JSON-able.

    Time counts what halving leaves of the epochs, trials in full cohorts, and each cell's winner trained again, alone,
    under the study's other seeds (``seed_seconds``).

    Args:
        spec: The study.
        objectives: That of each combination.
        score: Whether every cell is scored as well (``plan_scores``); the baseline must then be trained.
    """
    keep_freed_memory()
    task, counted = next(iter(objectives.values())).task, set[str]()
    combinations: list[dict[str, Any]] = []
    for name, objective in objectives.items():
        search = objective.search
        own = cells(search)
        ranks = [plan_rank(objective, rank) for rank in search.ranks]
        trials = search.trials * len(own)
        epochs = search.pruner.expected_epochs(search.epochs, search.ask_ahead)
        size, cache = measure_pass(objective), plan_cache(objective, counted)
        images = len(task.train) + EVALUATED * len(task.val)
        again = (size.alone or 0.0) * images * search.epochs * len(own) * (spec.seeds - 1)
        searching = (size.seconds or 0.0) * images * trials * epochs
        adapters = sum(4 * plan.trainable * len(own) // len(ranks) for plan in ranks)
        combinations.append(
            {
                "combination": name,
                "layers": objective.targets,
                "cells": len(own),
                "trials": trials,
                "epochs": round(trials * epochs),
                "seconds": round(searching + again + cache.seconds, 1),
                "seed_seconds": round(again, 1),
                "cache": vars(cache),
                "lanes": {str(batch): size.most(batch) for batch in search.batch_size},
                "disk_bytes": cache.missing_bytes
                + adapters
                + sum(p.bytes + HEADER_BYTES for p in ranks)
                + trials * TRIAL_BYTES,
                "allocation": _allocation(objective),
                "sized_by_values": not objective.combination.compression.sized_by_shape,
                "ranks": [vars(plan) for plan in ranks],
                "scores": plan_scores(objective) if score else None,
            }
        )
    return {
        "study": spec.name,
        "seeds": spec.seeds,
        "trained_baseline": task.trained,
        "parts": {"train": len(task.train), "val": len(task.val), "test": len(task.test)},
        "dense_bytes": next(iter(objectives.values())).compressed_size.dense_bytes,
        "trials": sum(combination["trials"] for combination in combinations),
        "seconds": round(sum(combination["seconds"] for combination in combinations), 1),
        "disk_bytes": sum(combination["disk_bytes"] for combination in combinations),
        "memory_bytes": peak_memory(next(iter(objectives.values())).recipe.device),
        "combinations": combinations,
    }
