"""Which lanes share a pass: as many as this machine trains most quickly together, whatever cell they are of."""

import functools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise

import torch

from pipeline.objective.objective import Objective
from pipeline.space import Values, cells
from pipeline.train.lane import Lane
from pipeline.train.loop import Cohort
from pipeline.train.parallel import side_by_side, workers
from pipeline.train.rows import TensorRows

MOST = 32
"""Lanes in one pass."""
HELD_BY_LANES = 2**31
"""Bytes that the lanes of one pass may hold: 16 a trained number, with its gradient and moments."""
STEPS = 2
"""Steps of each number of lanes that are timed together."""
LONG = 1.0
"""Seconds of one number of lanes; what is quicker is timed twice, for the first time pays for memory, and what takes
longer is the last: a model whose steps take seconds gains little from company."""
ENOUGH, WORSE = 0.95, 0.75
"""The fewest lanes that reach the first part of the best rate are taken; below the second, no more are tried."""
PROBED = 32
"""Images that a probe takes through the frozen layers; it repeats them to fill a batch."""


@dataclass(frozen=True)
class Pass:
    """What one pass holds.

    Args:
        images: Images of all lanes together, measured best.
        lanes: Lanes, where the user says how many.
        stacks: Whether this model can take several lanes at all.
        seconds: For one image of one lane in training, as measured; none where nothing was.
        alone: The same of a lane that is trained by itself, at most.
    """

    images: int
    lanes: int | None = None
    stacks: bool = True
    seconds: float | None = None
    alone: float | None = None

    def most(self, batch_size: int) -> int:
        """Lanes of that batch size that share a pass."""
        if not self.stacks:
            return 1
        return self.lanes or min(MOST, max(1, self.images // batch_size))


def pack(lanes: Iterable[Lane], size: Pass, workers: int = 1) -> list[list[Lane]]:
    """Cohorts of the lanes that may share one: as many for each worker, each as full as the others of its pace.

    Lanes of like ranks come together, whatever cell they are of; the cohort with the most to do comes first.
    """
    paces: dict[object, list[Lane]] = defaultdict(list)
    for lane in lanes:
        paces[lane.cohort_key].append(lane)
    counts = {pace: -(-len(own) // size.most(own[0].batch_size)) for pace, own in paces.items()}
    # Three cohorts on two cores would leave one idle for a third of the time.
    while sum(counts.values()) % workers and any(counts[pace] < len(own) for pace, own in paces.items()):
        fullest = max(paces, key=lambda pace: len(paces[pace]) / counts[pace])
        counts[fullest] += 1
    cohorts = []
    for pace, own in paces.items():
        own.sort(key=_numbers)
        bounds = [len(own) * place // counts[pace] for place in range(counts[pace] + 1)]
        cohorts += [own[start:stop] for start, stop in pairwise(bounds)]
    return sorted(cohorts, key=lambda cohort: -sum(map(_numbers, cohort)))


def _numbers(lane: Lane) -> int:
    return sum(shape.numel() for shape in lane.shapes.values())


def measure_pass(objective: Objective) -> Pass:
    """Try 1, 2, 4, ... lanes of the middle batch size, their values as mixed as the search's, for some steps each.

    As many cohorts as will train at once are tried at once: they share the machine's caches and memory.

    Args:
        objective: What trains.
    """
    search, program, device = objective.combination.search, objective.bases.common.program, objective.recipe.device
    batch = min(sorted(search.batch_size)[len(search.batch_size) // 2], len(objective.combination.task.train))
    rows = probe_rows(objective, batch * STEPS)
    most = min(MOST, max(1, HELD_BY_LANES // (16 * objective.combination.facts(max(search.ranks)).trainable + 1)))
    most = most if program.stacks else 1
    rates: dict[int, float] = {}
    lanes = 1
    took = 0.0
    while lanes <= most and took < LONG and (not rates or rates[lanes // 2] > WORSE * max(rates.values())):
        values = _mixed(objective, lanes, batch)
        cohorts = [
            Cohort([objective.lane(each) for each in values], program, objective.recipe) for _ in range(workers(device))
        ]
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
    alone = workers(device) / rates[1]  # it may have all threads to itself, which a small model does not gain from
    return Pass(enough * batch, stacks=program.stacks, seconds=1 / rates[enough], alone=alone)


def _seconds(cohorts: Sequence[Cohort], rows: TensorRows, device: str) -> float:
    started = time.perf_counter()
    side_by_side([functools.partial(cohort.train, rows) for cohort in cohorts], device)
    return time.perf_counter() - started


def _mixed(objective: Objective, count: int, batch: int) -> Sequence[Values]:
    search = objective.combination.search
    widest, init = objective.combination.adapted(max(search.ranks)), cells(search)[0].init
    own = [cell for cell in cells(search) if cell.init == init and objective.combination.adapted(cell.rank) == widest]
    extra = {name: range_.low for name, range_ in objective.combination.adapter.space.items()}
    each = zip(cycle(own), cycle(search.optimizer), strict=False)
    return [
        Values(cell.rank, cell.init, search.alpha.low, optimizer.name, search.lr.low, batch, extra)
        for cell, optimizer in islice(each, count)
    ]


@torch.no_grad()
def probe_rows(objective: Objective, count: int) -> TensorRows:
    """As many rows as asked for, from a few images of the training part; no cache is built for them."""
    few = min(PROBED, count, len(objective.combination.task.train))
    images, labels = next(iter(objective.combination.task.train.batches(few, torch.arange(few))))
    images = images.to(objective.recipe.device)
    tensors = (
        *objective.bases.common.program.inputs(images),
        *(objective.bases.teacher(images) if objective.bases.teacher else ()),
    )
    places = torch.arange(count, device=tensors[0].device) % few
    return TensorRows([tensor[places] for tensor in tensors], labels[places.cpu()].to(tensors[0].device))
