"""How quickly trials end, and when the rest will have; before anything is known, nothing is said."""

from dataclasses import dataclass

from pipeline.results.progress import Progress

SOONEST = 1.0
"""Seconds before which a rate says nothing yet."""


def trials_per_second(trials: float, seconds: float) -> float | None:
    """The rate at which trials ended, parts of running ones among them; none before anything is known."""
    return trials / seconds if trials > 0 and seconds >= SOONEST else None


def seconds_for(trials: float, rate: float | None) -> float | None:
    """What so many trials will take at that rate."""
    return None if rate is None else max(0.0, trials) / rate


@dataclass
class Searched:
    """A combination as a run has it.

    Args:
        name: Its name.
        progress: Where it stands now.
        began: When the run came to it, in seconds of a clock.
        done: Trials that were counted then.
    """

    name: str
    progress: Progress
    began: float
    done: int

    def rate(self, now: float) -> float | None:
        """Trials that this run ends a second; earlier runs' are not its."""
        return trials_per_second(self.progress.done - self.done + self.progress.parts, now - self.began)

    def seconds_left(self, now: float, more: int = 0) -> float | None:
        """Until its last trial has ended, and ``more`` trials of other combinations."""
        return seconds_for(self.progress.left - self.progress.parts + more, self.rate(now))
