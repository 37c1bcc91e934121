"""How far a search is, as lines and as a table; rates, and the time that remaining trials need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rich.text import Text

from pipeline.results.progress import CellProgress, Progress
from pipeline.terminal.text import aligned
from pipeline.wording import cell_name, duration

LEFT_ALIGNED = ("init", "bar", "tested")
"""Columns of words and pictures; those of numbers are aligned to the right."""


def trials_per_second(trials: float, seconds: float) -> float | None:
    """The rate at which trials ended, with the finished parts of running ones; None in the first second."""
    return trials / seconds if trials > 0 and seconds >= 1 else None


def seconds_for(trials: float, rate: float | None) -> float | None:
    """The seconds that a number of trials takes at a rate in trials per second; None for an unknown rate."""
    return None if rate is None else max(0.0, trials) / rate


def progress_line(name: str, progress: Progress, rate: float | None, passed: float | None) -> str:
    """A combination in one line: trials, running trials, best value, rate, time passed and time left."""
    share = progress.done / progress.budget
    parts = [f"{progress.done}/{progress.budget} trials ({share:.0%})", *_ended(progress)]
    if progress.running:
        parts.append(f"{progress.running} running in epoch {epoch_text(progress.epoch, progress.epochs)}")
    parts += [_best(progress)] + ([] if passed is None else [duration(passed)])
    if progress.left:
        left = seconds_for(progress.remaining, rate)
        parts.append(rate_text(rate))
        parts.append("time left not known yet" if left is None else f"about {duration(left)} left")
    return f"{name}: {', '.join(parts)}"


def cell_lines(name: str, progress: Progress) -> list[str]:
    """One line per cell, for a combination that has ended."""
    lines = []
    for cell in progress.cells:
        label = f"{cell_name(cell.rank, cell.init, progress.unit)}: " if cell.rank else ""
        exhausted = "; no more are tried, because as many have failed" if cell.done < cell.budget else ""
        lines.append(f"{name}: {label}{_results_text(replace(progress, cells=(cell,)))}{exhausted}")
    return lines


def summary_text(progress: Progress) -> str:
    """The trials and the best value of a combination, and the cell that has it."""
    best = progress.best_cell
    of = f" ({cell_name(best.rank, best.init, progress.unit)})" if best and best.rank else ""
    return _results_text(progress) + of


def _results_text(progress: Progress) -> str:
    return ", ".join([f"{progress.done}/{progress.budget} trials", *_ended(progress), _best(progress)])


def _ended(progress: Progress) -> list[str]:
    return counts_text(pruned=progress.pruned, failed=progress.failed)


def counts_text(**counts: int) -> list[str]:
    """Counts by state, without those that are 0: ``["2 pruned", "1 failed"]``."""
    return [f"{count} {state}" for state, count in counts.items() if count]


def _best(progress: Progress) -> str:
    return "none complete yet" if progress.best is None else f"best {progress.metric} {progress.best:.4f}"


def epoch_text(behind: int, epochs: int) -> str:
    """The epoch in training, from 1, and the epochs of a trial: ``3/9`` after two complete epochs."""
    return f"{min(behind + 1, epochs)}/{epochs}"


def rate_text(rate: float | None) -> str:
    """A rate in trials per second as text: ``48.2 trials/min``, ``3.5 trials/h``, ``- trials/min`` for None."""
    if rate is None:
        return "- trials/min"
    number, unit = (60 * rate, "min") if 60 * rate >= 1 else (3600 * rate, "h")
    return f"{number:,.0f} trials/{unit}" if number >= 99.95 else f"{number:.3g} trials/{unit}"


def cell_row(cell: CellProgress, progress: Progress) -> dict[str, Text]:
    """The columns of a cell in a table of cells; rank, init and value of the best cell are bold."""
    style = "bold green" if cell is progress.best_cell else ""
    return {
        "rank": Text(str(cell.rank), style=style),
        "init": Text(cell.init, style=style),
        "trials": Text(f"{cell.done}/{cell.budget}"),
        "pruned": Text(str(cell.pruned), style="" if cell.pruned else "dim"),
        "failed": Text(str(cell.failed), style="red" if cell.failed else "dim"),
        "running": Text(str(cell.running), style="" if cell.running else "dim"),
        "epoch": Text(epoch_text(cell.epoch, progress.epochs)) if cell.running else Text("-", style="dim"),
        "best": Text("-", style="dim") if cell.best is None else Text(f"{cell.best:.4f}", style=style),
    }


def cell_table(
    columns: Iterable[str], rows: Sequence[Mapping[str, Text]], progress: Progress, *, narrow: bool = False
) -> list[Text]:
    """Lines with the names of the columns and one row per cell; without rank and init if the adapter has no ranks."""
    ranked = any(cell.rank for cell in progress.cells)
    keys = [key for key in columns if ranked or key not in ("rank", "init")]
    titles = {"rank": progress.unit or "rank", "bar": "", "best": "best" if narrow else f"best {progress.metric}"}
    left = [index for index, key in enumerate(keys) if key in LEFT_ALIGNED]
    return aligned([titles.get(key, key) for key in keys], [[row[key] for key in keys] for row in rows], left)
