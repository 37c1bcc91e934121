"""How the page says numbers: accuracies in percent, sizes and durations that no line breaks."""

from collections.abc import Iterable

from pipeline.report.figures.labels import rank_name, seed_count
from pipeline.results.stored_results import CombinationResult
from pipeline.space import UNRANKED
from pipeline.wording import duration, readable_bytes

FIRM = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that no line breaks there."""
NOTHING = "-"
"""Stands for the rank and the init of an adapter that has none."""


def percent(share: float | None, digits: int = 2) -> str:
    """``0.954`` -> ``95.40``; empty where there is nothing to say."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def with_interval(accuracy: float | None, low: float | None, high: float | None) -> str:
    """``95.40 (93.92 to 96.53)``."""
    return "" if accuracy is None else f"{percent(accuracy)} ({percent(low)} to {percent(high)})"


def spread(mean: float | None, deviation: float | None, seeds: int, failed: int) -> str:
    """``95.31 ± 0.12 (3 seeds)``, where there are several; ``1 of 3 seeds`` where training failed under all others."""
    count = seed_count(seeds, failed)
    if mean is None or deviation is None:
        return count if failed else ""
    return f"{percent(mean)} ± {percent(deviation)} ({count})"


def rounded(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def size(count: int | None) -> str:
    return "" if count is None else readable_bytes(count).replace(" ", FIRM)


def rank_said(result: CombinationResult, rank: int) -> str:
    """A rank, or the budget that it stands for: ``4``, ``20 kB``, ``5,000 numbers``."""
    numbers = f"{FIRM}numbers" if rank and result.budget_unit == "parameters" else ""
    return rank_name(result, rank).replace(" ", FIRM) + numbers


def init_said(init: str) -> str:
    return NOTHING if init == UNRANKED else init


def time(seconds: float) -> str:
    return duration(seconds).replace(" ", FIRM)


def listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
