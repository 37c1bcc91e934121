"""The rate at which trials end, and the time that the remaining ones need."""

from dataclasses import dataclass

from pipeline.results.progress import Progress

SOONEST = 1.0
"""Seconds after which a rate is meaningful."""


def trials_per_second(trials: float, seconds: float) -> float | None:
    """The rate at which trials ended, with the finished parts of running ones; None if it is not known yet."""
    return trials / seconds if trials > 0 and seconds >= SOONEST else None


def seconds_for(trials: float, rate: float | None) -> float | None:
    """The seconds that a number of trials takes at a rate in trials per second; None for an unknown rate."""
    return None if rate is None else max(0.0, trials) / rate


@dataclass
class Searched:
    """A combination during a run.

    Args:
        name: Its name.
        progress: Its progress now.
        began: The time in seconds at which the run began to search it.
        done: Its trials that were done at that time.
    """

    name: str
    progress: Progress
    began: float
    done: int

    def rate(self, now: float) -> float | None:
        """Trials per second in this run."""
        return trials_per_second(self.progress.done - self.done + self.progress.parts, now - self.began)

    def seconds_left(self, now: float, more: int = 0) -> float | None:
        """Seconds until its last trial and ``more`` trials of other combinations have ended."""
        return seconds_for(self.progress.left - self.progress.parts + more, self.rate(now))
