"""How numbers are said: accuracies in percent, sizes in bytes, durations, ranks that may be budgets."""

from collections.abc import Iterable, Sequence

from pipeline.report.figures.look import readable_bytes
from pipeline.search.results import CombinationResult
from pipeline.search.space import UNRANKED

NOTHING = "-"
"""Stands for the rank and the init of an adapter that has none."""


def percent(share: float | None, digits: int = 2) -> str:
    """``0.954`` -> ``95.40``; empty where there is nothing to say."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def with_interval(accuracy: float | None, low: float | None, high: float | None) -> str:
    """``95.40 (93.92 to 96.53)``."""
    return "" if accuracy is None else f"{percent(accuracy)} ({percent(low)} to {percent(high)})"


def spread(mean: float | None, deviation: float | None, seeds: int) -> str:
    """``95.31 ± 0.12 (3)``, where there are several seeds."""
    return "" if mean is None or deviation is None else f"{percent(mean)} ± {percent(deviation)} ({seeds})"


def rounded(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def size(count: int | None) -> str:
    return "" if count is None else readable_bytes(count)


def rank_said(result: CombinationResult, rank: int) -> str:
    """A rank, or the budget that it stands for: ``4``, ``20 kB``, ``5,000 numbers``; ``-`` where there is none."""
    if rank == 0:
        return NOTHING
    unit = result.budget_unit
    return str(rank) if unit is None else readable_bytes(rank) if unit == "bytes" else f"{rank:,} numbers"


def init_said(init: str) -> str:
    return NOTHING if init == UNRANKED else init


def rank_heading(results: Sequence[CombinationResult]) -> str:
    """What a column of ranks is called."""
    ranked = [result for result in results if any(cell.cell.rank for cell in result.cells)]
    names = {"budget" if result.budget_unit else "rank" for result in ranked}
    return " or ".join(sorted(names, reverse=True)) or "rank"


def metric_of(results: Sequence[CombinationResult]) -> str:
    """``accuracy`` or ``agreement``; both words where studies of both kinds are shown together."""
    return " or ".join(sorted({result.metric for result in results}))


def duration(seconds: float) -> str:
    """``56 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    for large, small, least in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if seconds >= least:
            whole, rest = divmod(round(seconds / (least / _PARTS[large])), _PARTS[large])
            return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
    raise ValueError(f"a duration is a positive number of seconds, not {seconds}")


_PARTS = {"d": 24, "h": 60, "min": 60}


def listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
