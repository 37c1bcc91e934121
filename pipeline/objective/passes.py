"""Which lanes share a pass: as many as this machine trains fastest together, of any cell."""

import functools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, pairwise

import torch

from pipeline.objective.objective import Objective
from pipeline.space import Values, cells, middle
from pipeline.train.lane import Lane
from pipeline.train.loop import Cohort, side_by_side, workers
from pipeline.train.rows import Rows, TensorRows

MOST = 32
"""The highest number of lanes in one pass."""
HELD_BY_LANES = 2**31
"""Bytes that the lanes of one pass may hold: 16 per trained parameter, with its gradient and moments."""
STEPS = 2
"""Training steps per measurement."""
LONG = 0.5
"""Seconds of a measurement. Shorter ones are repeated, since the first pays for memory; a longer one is the last, since
a model whose steps take seconds gains little from sharing a pass."""
ENOUGH, WORSE = 0.95, 0.75
"""The fewest lanes with this share of the best rate are chosen; below the second share, no more lanes are tried."""
PROBED = 32
"""Images that the frozen layers process for a measurement; they are repeated to fill a batch."""


@dataclass(frozen=True)
class Pass:
    images: int  # of all lanes together at the fastest number of lanes
    lanes: int | None = None  # as many as the user asked for, 1 if the model computes no more; None to go by `images`
    seconds: float | None = None  # measured training time per image and lane; None if nothing was measured
    alone: float | None = None  # upper bound of the same time for a lane that is trained alone

    def most(self, batch_size: int) -> int:
        """The number of lanes of a batch size that share a pass."""
        return self.lanes or min(MOST, max(1, self.images // batch_size))


def pack(lanes: Iterable[Lane], size: Pass, workers: int = 1) -> list[list[Lane]]:
    """Divide lanes into cohorts of similar size, with as many cohorts for each worker if possible.

    Lanes of one ``cohort_key`` and of similar ranks share a cohort, whatever their cells. The cohort with the most
    parameters comes first.
    """
    groups: dict[object, list[Lane]] = defaultdict(list)
    for lane in lanes:
        groups[lane.cohort_key].append(lane)
    counts = {key: -(-len(group) // size.most(group[0].batch_size)) for key, group in groups.items()}
    # Three cohorts on two cores would leave one idle for a third of the time.
    while sum(counts.values()) % workers and any(counts[key] < len(group) for key, group in groups.items()):
        fullest = max(groups, key=lambda key: len(groups[key]) / counts[key])
        counts[fullest] += 1
    cohorts = []
    for key, group in groups.items():
        group.sort(key=_parameters)
        bounds = [len(group) * i // counts[key] for i in range(counts[key] + 1)]
        cohorts += [group[start:stop] for start, stop in pairwise(bounds)]
    return sorted(cohorts, key=lambda cohort: -sum(map(_parameters, cohort)))


def _parameters(lane: Lane) -> int:
    return sum(shape.numel() for shape in lane.shapes.values())


def measure_pass(objective: Objective) -> Pass:
    """Time 1, 2, 4, ... lanes of the middle batch size for some steps each; their values are mixed as in the search.

    As many cohorts are timed at once as will train at once, since they share the machine's caches and memory.
    """
    combination, program, device = objective.combination, objective.bases.common.program, objective.recipe.device
    search = combination.search
    batch = min(sorted(search.batch_size)[len(search.batch_size) // 2], len(combination.task.train))
    rows = probe_rows(objective, batch * STEPS)
    held = HELD_BY_LANES // (16 * combination.facts(max(search.ranks)).trainable + 1)
    most = min(MOST, max(1, held)) if program.stacks else 1
    rates, lanes, took = dict[int, float](), 1, 0.0
    while lanes <= most and took < LONG and (not rates or rates[lanes // 2] > WORSE * max(rates.values())):
        values = _mixed(objective, lanes, batch)
        cohorts = [Cohort(list(map(objective.lane, values)), program, objective.recipe) for _ in range(workers(device))]
        try:
            took = _seconds(cohorts, rows, device)
            took = min(took, _seconds(cohorts, rows, device)) if took < LONG else took
        except torch.OutOfMemoryError:
            if not rates:
                raise
            break
        rates[lanes] = lanes * len(cohorts) * len(rows) / took
        lanes *= 2
    enough = next(count for count, rate in rates.items() if rate > ENOUGH * max(rates.values()))
    alone = workers(device) / rates[1]  # an upper bound: alone it may use all threads
    return Pass(enough * batch, None if program.stacks else 1, seconds=1 / rates[enough], alone=alone)


def _seconds(cohorts: Sequence[Cohort], rows: Rows, device: str) -> float:
    started = time.perf_counter()
    side_by_side([functools.partial(cohort.train, rows) for cohort in cohorts], device)
    return time.perf_counter() - started


def _mixed(objective: Objective, count: int, batch: int) -> Sequence[Values]:
    combination, search = objective.combination, objective.combination.search
    widest, init = combination.adapted(max(search.ranks)), cells(search)[0].init
    alike = [cell for cell in cells(search) if cell.init == init and combination.adapted(cell.rank) == widest]
    pairs = islice(zip(cycle(alike), cycle(search.optimizer), strict=False), count)
    middles = ((middle(cell, search, combination.adapter), optimizer.name) for cell, optimizer in pairs)
    # The lowest rate, at which no lane diverges and ends its epoch early.
    lowest = search.lr.low
    return [replace(values, optimizer=optimizer, lr=lowest, batch_size=batch) for values, optimizer in middles]


@torch.no_grad()
def probe_rows(objective: Objective, count: int) -> Rows:
    """``count`` rows made from a few images of the training part, without building a cache."""
    train, bases = objective.combination.task.train, objective.bases
    few = min(PROBED, count, len(train))
    images, labels = next(iter(train.batches(few, torch.arange(few))))
    images = images.to(objective.recipe.device)
    if bases.augmenter is not None:
        indices = torch.arange(count) % few
        rows = TensorRows([images[indices.to(images.device)]], labels[indices].to(images.device))
        return bases.augmented(bases.common, rows, seed=0)
    tensors = (*bases.common.program.inputs(images), *(bases.lessons(images) if bases.lessons else ()))
    indices = torch.arange(count, device=tensors[0].device) % few
    return TensorRows([tensor[indices] for tensor in tensors], labels[indices.cpu()].to(tensors[0].device))
