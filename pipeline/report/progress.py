"""How far studies have come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.search.results import CellResult, CombinationResult


@dataclass(frozen=True)
class Progress:
    """Of some combinations together.

    Args:
        done: Trials that count: complete or pruned, and all of a cell that is exhausted.
        budget: All that are asked for.
        running: Trials that had begun and not ended; a run that was killed leaves some.
        tested: Whether every winner is tested.
        seconds: In which at least one trial was trained; pauses between runs are left out.
        latest: When the last trial ended.
    """

    done: int
    budget: int
    running: int
    tested: bool
    seconds: float
    latest: datetime | None

    @property
    def finished(self) -> bool:
        return self.done >= self.budget and self.tested


def progress(results: Sequence[CombinationResult]) -> Progress:
    cells = [cell for result in results for cell in result.cells]
    spans = [
        (trial.datetime_start, trial.datetime_complete)
        for result in results
        for trial in result.study.get_trials(deepcopy=False)
        if trial.datetime_start and trial.datetime_complete
    ]
    return Progress(
        done=sum(map(done_of, cells)),
        budget=sum(cell.budget for cell in cells),
        running=sum(cell.states["running"] for cell in cells),
        tested=all(cell.test for cell in cells if cell.best),
        seconds=_covered(spans),
        latest=max((end for _, end in spans), default=None),
    )


def done_of(cell: CellResult) -> int:
    """Trials of a cell's budget that need no more waiting for."""
    return cell.budget if cell.exhausted else min(cell.states["complete"] + cell.states["pruned"], cell.budget)


def begun(cell: CellResult) -> bool:
    return any(cell.states.values())


def _covered(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, until = 0.0, None
    for start, end in sorted(spans):
        since = start if until is None or start > until else until
        total += max((end - since).total_seconds(), 0.0)
        until = end if until is None else max(until, end)
    return total
