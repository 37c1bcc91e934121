"""How far studies have come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.results.progress import progress_of
from pipeline.results.stored_results import CombinationResult
from pipeline.results.tables import status_table


@dataclass(frozen=True)
class Standing:
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


def standing(results: Sequence[CombinationResult]) -> Standing:
    parts = [progress_of(part) for part in status_table(results)]
    spans = [
        (trial.datetime_start, trial.datetime_complete)
        for result in results
        for trial in result.trials()
        if trial.datetime_start and trial.datetime_complete
    ]
    return Standing(
        done=sum(part.budget - part.left for part in parts),
        budget=sum(part.budget for part in parts),
        running=sum(part.running for part in parts),
        tested=all(cell.test for result in results for cell in result.cells if cell.best),
        seconds=_covered(spans),
        latest=max((end for _, end in spans), default=None),
    )


def _covered(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, until = 0.0, None
    for start, end in sorted(spans):
        since = start if until is None or start > until else until
        total += max((end - since).total_seconds(), 0.0)
        until = end if until is None else max(until, end)
    return total
