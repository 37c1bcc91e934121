"""Which lanes share a pass: as many as this machine trains most quickly together, whatever cell they are of."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import TypeVar

import torch

from pipeline.search.objective import Objective
from pipeline.search.space import Values
from pipeline.train.cohort import Cohort, Lane
from pipeline.train.rows import TensorRows

MOST = 64
"""Lanes in one pass."""
STEPS = 3
"""Steps that are timed of each number of lanes, after one that is not."""
PROBED = 32
"""Images that a probe takes through the frozen layers; it repeats them to fill a batch."""
GAIN = 1.05
"""What twice as many lanes must be quicker by, to be worth their memory."""


@dataclass(frozen=True)
class Pass:
    """What one pass holds.

    Args:
        images: Images of all lanes together, measured best.
        lanes: Lanes, where the user says how many.
        stacks: Whether this model can take several lanes at all.
        seconds: For one image of one lane in training, as measured; none where nothing was.
    """

    images: int
    lanes: int | None = None
    stacks: bool = True
    seconds: float | None = None

    def most(self, batch_size: int) -> int:
        """Lanes of that batch size that share a pass."""
        if not self.stacks:
            return 1
        return self.lanes or min(MOST, max(1, self.images // batch_size))


T = TypeVar("T")


def pack(trials: Iterable[tuple[Lane, T]], size: Pass) -> list[list[T]]:
    """Cohorts of the lanes that may share one, each as full as the others, ranks that are alike together."""
    paces: dict[object, list[tuple[Lane, T]]] = defaultdict(list)
    for lane, trial in trials:
        paces[lane.pace].append((lane, trial))
    cohorts = []
    for members in paces.values():
        members.sort(key=lambda member: sum(shape.numel() for shape in member[0].shapes.values()))
        count = -(-len(members) // size.most(members[0][0].batch_size))
        bounds = [len(members) * place // count for place in range(count + 1)]
        cohorts += [[trial for _, trial in members[a:b]] for a, b in pairwise(bounds)]
    return cohorts


def measure_pass(objective: Objective) -> Pass:
    """Try 1, 2, 4, ... lanes of the middle batch size, their values as mixed as the search's, for some steps each."""
    search = objective.search
    batch = min(sorted(search.batch_size)[len(search.batch_size) // 2], len(objective.task.train))
    rows = probe_rows(objective, batch * (STEPS + 1))
    most = MOST if objective.program.stacks else 1
    best, best_lanes, lanes = 0.0, 1, 1
    while lanes <= most:
        cohort = Cohort(
            [objective.lane(values) for values in _mixed(objective, lanes, batch)], objective.program, objective.recipe
        )
        rate = _images_per_second(cohort, rows, lanes)
        if rate > best * (GAIN if best else 1):
            best, best_lanes = rate, lanes
        elif rate < best * 0.8 or lanes >= 4 * best_lanes:
            break
        lanes *= 2
    return Pass(best_lanes * batch, stacks=objective.program.stacks, seconds=1 / best)


def _images_per_second(cohort: Cohort, rows: TensorRows, lanes: int) -> float:
    started: list[float] = []
    cohort.train(rows, lambda: started.append(time.perf_counter()))
    took = time.perf_counter() - started[1]  # the first step pays for threads and memory
    return lanes * (len(rows) - len(rows) // len(started)) / took


def _mixed(objective: Objective, count: int, batch: int) -> Sequence[Values]:
    search = objective.search
    each = zip(cycle(search.ranks), cycle(search.optimizer), strict=False)
    init = search.inits[0].name
    return [
        Values(rank, init, search.alpha.low, optimizer, search.lr.low, batch) for rank, optimizer in islice(each, count)
    ]


@torch.no_grad()
def probe_rows(objective: Objective, count: int) -> TensorRows:
    """As many rows as asked for, from a few images of the training part; no cache is built for them."""
    few = min(PROBED, count, len(objective.task.train))
    images, labels = next(iter(objective.task.train.batches(few, torch.arange(few))))
    tensors = objective.program.inputs(images.to(objective.recipe.device))
    places = torch.arange(count, device=tensors[0].device) % few
    return TensorRows([tensor[places] for tensor in tensors], labels[places.cpu()].to(tensors[0].device))
