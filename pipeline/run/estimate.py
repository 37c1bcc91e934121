"""What a run would do, and what it would take; nothing is changed by asking."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pipeline.compress.layer_statistics import calibration, is_wide
from pipeline.compress.layers import matrix_shape
from pipeline.compress.weight import DenseWeight
from pipeline.config.registry import METRICS
from pipeline.config.spec import StudySpec
from pipeline.environment import keep_freed_memory, peak_memory
from pipeline.objective.compression_stats import prefix_start
from pipeline.objective.objective import Objective
from pipeline.objective.outline import Outline
from pipeline.objective.passes import PROBED, measure_pass
from pipeline.run.planned_scores import plan_auto, plan_auto_inits, plan_scores
from pipeline.run.planned_sizes import plan_rank
from pipeline.search.budget import search_notes
from pipeline.space import cells
from pipeline.task.class_counts import score_largest_class
from pipeline.task.parts import Part

TRIAL_BYTES = 10_000
"""What a trial takes in the database, measured on SQLite with ten epochs, and the picture of its curves."""
HEADER_BYTES = 2_000
"""About what the header of an exported file takes."""
EVALUATED = 1 / 3
"""Time per image in an evaluation, relative to training: one of the three products, forward and back."""


def plan_cache(objective: Objective, counted: set[str]) -> dict[str, Any]:
    """Disk and time of the caches of frozen layers and of a teacher's logits; the time is extrapolated from few images.

    ``counted`` has the keys of caches that were counted for another combination; those of this one are added.
    """
    task, bases, wanted = objective.combination.task, objective.bases, list[tuple[nn.Module, str]]()
    for base in bases.shared:
        stem = base.program.cut.stem if base.program.cut else None
        wanted += [(stem, name) for name in ("train", "val", "test")] if stem else []
    said = bases.common.program.cut_in_words()  # of the highest rank, if cells adapt different layers
    if bases.augmenter is not None:
        names = ", ".join(augmentation.name for augmentation in bases.augmenter.augmentations)
        said += f"; training images are augmented in every epoch ({names})"
    if objective.recipe.loss.blocks:
        said += "; the uncompressed model runs beside it in every epoch"
    elif bases.teacher and objective.recipe.compute.cache != "off":
        wanted += [(bases.teacher, name) for name in bases.repeated]
        kept = "for distillation" if "train" in bases.repeated else "for validation, and computed for augmented images"
        said += f"; the uncompressed model's logits are kept {kept}"
    images, _ = next(iter(task.train.batches(PROBED, torch.arange(min(PROBED, len(task.train))))))
    per_image = {module: _seconds(module, images.to(objective.recipe.device)) / len(images) for module, _ in wanted}
    size, missing, seconds = 0, 0, 0.0
    for module, name in wanted:
        part, facts = getattr(task, name), bases.common.feature_facts(name)
        key = bases.features.key(module, facts)
        if key in counted:
            continue
        counted.add(key)
        part_size, exists = bases.features.plan(module, part, facts)
        size += part_size
        if not exists:
            missing += part_size
            seconds += per_image[module] * len(part)
    return {"said": said, "bytes": size, "missing_bytes": missing, "seconds": round(seconds, 1)}


@torch.no_grad()
def _seconds(function: Callable[..., object], *inputs: torch.Tensor) -> float:
    started = time.perf_counter()
    function(*inputs)
    return time.perf_counter() - started


def _largest_share(part: Part) -> float:
    correct, images = score_largest_class(part.labels)
    return correct / images


def preparation_bytes(outlines: Iterable[Outline]) -> int:
    """Bytes of memory that statistics and decompositions of all combinations take before their trials."""
    every = list(outlines)
    return statistics_bytes(every) + max(outline.decomposition_bytes for outline in every)


def statistics_bytes(outlines: Iterable[Outline]) -> int:
    """Bytes of the layers' statistics, and of what they are gathered from behind compressed layers.

    Combinations share the statistics of a layer, and are compressed one after another.
    """
    layers, held = dict[tuple[str, str], int](), 0
    for outline in outlines:
        layers |= {(outline.spec.qkv, name): size for name, size in outline.statistics_bytes.items()}
        held = max(held, outline.prefix_bytes)
    return sum(layers.values()) + held


def plan_statistics(outline: Outline) -> dict[str, Any]:
    """Bytes of the statistics of a combination, and the inputs of the layers whose moment is that of a sample.

    With a prefix also the images and passes of its statistics, and the seconds of these passes. The layers before the
    first target run once. Each target is reached in the compressed and in the uncompressed model, on average in half
    the time that the rest of the model takes.
    """
    layers = {name: outline.model.get_submodule(name) for name in outline.statistics_bytes}
    sampled = {name: matrix_shape(layer)[1] for name, layer in layers.items() if is_wide(layer)}
    facts = {"bytes": statistics_bytes([outline]), "sampled": sampled}
    if not outline.prefix_images:
        return facts
    images, _ = next(calibration(outline.task.train, PROBED))
    start = prefix_start(outline.model, outline.targets, outline.task.train, len(images))
    whole, rest = _seconds(outline.model, images), _seconds(start.forward(outline.model), *start.batches[0])
    seconds = (max(0.0, whole - rest) + len(layers) * rest) * outline.prefix_images / len(images)
    return facts | {"prefix": {"images": outline.prefix_images, "passes": len(layers), "seconds": round(seconds, 1)}}


def plan_study(
    spec: StudySpec, outlines: Mapping[str, Outline], objectives: Mapping[str, Objective], *, score: bool = False
) -> dict[str, Any]:
    """Cells, trials, sizes, memory, disk and time of a study, JSON-able.

    The ``objectives`` are those of the ``outlines``, or those of a trained baseline, whose cells are then scored if
    ``score`` says so (``plan_scores``). The time assumes full cohorts and the epochs that the pruner leaves, and is
    measured over a few steps. ``seed_seconds`` is the time to train each cell's winner again, alone, under the study's
    other seeds.
    """
    keep_freed_memory()
    first, counted = next(iter(objectives.values())), set[str]()
    task = first.combination.task
    labelled = METRICS.parse(task.metric).uses_labels  # other labels cost a pass of the model over every image
    combinations: list[dict[str, Any]] = []
    for name, objective in objectives.items():
        combination, search = objective.combination, objective.combination.search
        count = len(cells(search))
        ranks = [plan_rank(combination, rank) for rank in search.ranks]
        trials = search.trials * count
        epochs = count * search.pruner.expected_epochs(search)
        size, cache = measure_pass(objective), plan_cache(objective, counted)
        images = len(task.train) + EVALUATED * len(task.val)
        again = (size.alone or 0.0) * images * search.epochs * count * (spec.seeds - 1)
        searching = (size.seconds or 0.0) * images * epochs
        adapters = sum(4 * plan["trainable"] * count // len(ranks) for plan in ranks)
        allocation = search.allocation.model_dump() if search.allocation else None
        if allocation is not None:  # ranks are spread by the spectra of what compression lost, or else of the weights
            dense = all(isinstance(weight, DenseWeight) for weight in combination.compressed.weights.values())
            allocation["spectra"] = "weight" if dense else "residual"
        exports = sum(plan["bytes"] + HEADER_BYTES for plan in ranks)
        combinations.append(
            {
                "combination": name,
                "layers": combination.targets,
                "cells": count,
                "trials": trials,
                "epochs": round(epochs),
                "most_epochs": trials * search.epochs,
                "seconds": round(searching + again + cache["seconds"], 1),
                "seed_seconds": round(again, 1),
                "cache": cache,
                "statistics": plan_statistics(outlines[name]),
                "lanes": {str(batch): size.most(batch) for batch in search.batch_size},
                "disk_bytes": cache["missing_bytes"] + adapters + exports + trials * TRIAL_BYTES,
                "allocation": allocation,
                "auto": plan_auto(combination),
                "auto_inits": plan_auto_inits(combination),
                "sized_by_values": not combination.compression.sized_by_shape,
                "moved": [init.name for init in combination.inits.values() if init.moves_base],
                "ranks": ranks,
                "notes": [*search_notes(spec.search, combination.adapter), *combination.compressed.notes],
                "scores": plan_scores(objective) if score else None,
            }
        )
    # Decompositions are over when trials begin, and so is the training of the baseline, with gradients and two moments.
    training = 0 if task.trained else 12 * sum(parameter.numel() for parameter in task.model.parameters())
    preparing = max(preparation_bytes(outlines.values()), training)
    return {
        "study": spec.name,
        "seeds": spec.seeds,
        "trained_baseline": task.trained,
        "data": list(task.description.get("data_notes", [])),
        "model": task.inspection.notes,
        "largest_class": {part: _largest_share(getattr(task, part)) for part in ("val", "test") if labelled},
        "parts": {"train": len(task.train), "val": len(task.val), "test": len(task.test)},
        "dense_bytes": first.combination.compressed_size.dense_bytes,
        "trials": sum(combination["trials"] for combination in combinations),
        "seconds": round(sum(combination["seconds"] for combination in combinations), 1),
        "disk_bytes": sum(combination["disk_bytes"] for combination in combinations),
        "memory_bytes": peak_memory(first.recipe.device) + (preparing if first.recipe.device == "cpu" else 0),
        "statistics_bytes": statistics_bytes(outlines.values()),
        "device": first.recipe.device,
        "combinations": combinations,
    }
