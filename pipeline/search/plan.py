"""What a run would do, and what it would take; nothing is changed by asking."""

import time
from dataclasses import dataclass
from typing import Any

from pipeline.environment import peak_memory
from pipeline.errors import SpecError
from pipeline.search.objective import Objective
from pipeline.search.pruners import expected_epochs
from pipeline.search.run import make_objectives
from pipeline.search.space import Values, cells
from pipeline.spec import StudySpec
from pipeline.task import Task, TensorPart, prepare
from pipeline.train.cohort import train_epoch

PROBE_BATCHES = 4
"""Batches that are trained to time one."""
TRIAL_ROW_BYTES = 6_000
"""What a trial takes in the database, measured on SQLite with ten epochs."""
HEADER_BYTES = 2_000
"""About what the header of an exported file takes."""


TARGETS_FIT = "targets and ranks fit"


def targets_fit(spec: StudySpec) -> tuple[str, bool, str]:
    """A tick of ``check``: whether every combination's targets are there, and can take the ranks."""
    try:
        objectives = make_objectives(spec, prepare(spec.task, train_baseline=False), "cpu")
    except SpecError as error:
        return TARGETS_FIT, False, str(error)
    said = ", ".join(f"{name}: {len(objective.targets)} layers" for name, objective in objectives.items())
    return TARGETS_FIT, True, said


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
    larger: list[str]
    """Layers whose adapter holds more numbers than their dense weight."""
    tensors: dict[str, int]
    """Bytes of each packed tensor of the compressed layers."""


def plan_rank(objective: Objective, rank: int) -> RankPlan:
    """Sizes at a rank, exact before training."""
    facts = objective.facts(rank)
    layers = facts.size.layers
    return RankPlan(
        rank=rank,
        trainable=facts.trainable,
        bytes=facts.size.bytes,
        ratio=facts.size.ratio,
        layer_ratio=facts.size.layer_ratio,
        published_ratio=facts.size.published_ratio(),
        macs_ratio=facts.dense_macs / facts.macs,
        clipped={name: r for name, r in facts.ranks.items() if r < rank},
        larger=[name for name, layer in layers.items() if layer.adapter >= layer.dense],
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


def seconds_per_epoch(objective: Objective, task: Task) -> float:
    """Seconds of one epoch of one trial alone, from a few batches at the largest batch size."""
    search = objective.search
    batch = min(max(search.batch_size), len(task.train))
    images, labels = next(iter(task.train.batches(batch)))
    part = TensorPart(images.repeat(PROBE_BATCHES, *[1] * (images.ndim - 1)), labels.repeat(PROBE_BATCHES))
    values = Values(
        rank=max(search.ranks),
        init=search.inits[0].name,
        alpha=search.alpha.low,
        optimizer=search.optimizer[0],
        lr=search.lr.low,
        batch_size=batch,
    )

    def train() -> float:
        started = time.perf_counter()
        lanes = [objective.lane(values)]
        train_epoch(lanes, objective.compressed.model, objective.adapter, part, part, objective.recipe)
        return time.perf_counter() - started

    train()  # the first pass pays for threads and memory
    return train() * len(task.train) / len(part)


def plan_study(spec: StudySpec, task: Task, objectives: dict[str, Objective]) -> dict[str, Any]:
    """Cells, trials, sizes, memory, disk and time of a study, JSON-able.

    Time counts what halving leaves of the epochs, and every trial as if none shared a cohort.
    """
    search, own = spec.search, cells(spec.search)
    combinations: list[dict[str, Any]] = []
    for name, objective in objectives.items():
        ranks = [plan_rank(objective, rank) for rank in search.ranks]
        trials = search.trials * len(own)
        epoch = seconds_per_epoch(objective, task)
        adapters = sum(4 * plan.trainable * len(search.inits) for plan in ranks)
        combinations.append(
            {
                "combination": name,
                "layers": objective.targets,
                "cells": len(own),
                "trials": trials,
                "epochs": round(trials * expected_epochs(search)),
                "seconds": round(epoch * trials * expected_epochs(search), 1),
                "disk_bytes": adapters + sum(p.bytes + HEADER_BYTES for p in ranks) + trials * TRIAL_ROW_BYTES,
                "ranks": [vars(plan) for plan in ranks],
            }
        )
    return {
        "study": spec.name,
        "trained_baseline": task.trained,
        "parts": {"train": len(task.train), "val": len(task.val), "test": len(task.test)},
        "dense_bytes": next(iter(objectives.values())).facts(search.ranks[0]).size.dense_bytes,
        "trials": sum(combination["trials"] for combination in combinations),
        "seconds": round(sum(combination["seconds"] for combination in combinations), 1),
        "disk_bytes": sum(combination["disk_bytes"] for combination in combinations),
        "memory_bytes": peak_memory(next(iter(objectives.values())).recipe.device),
        "combinations": combinations,
    }
