"""The progress of a search as lines, for the log file and for output that is not a terminal."""

from pipeline.results.progress import CellProgress, Progress
from pipeline.wording import cell_name, duration


def progress_line(name: str, progress: Progress, rate: float | None, passed: float | None, left: float | None) -> str:
    """A combination in one line: trials, running trials, best value, rate, time passed and time left."""
    share = progress.done / progress.budget
    parts = [f"{progress.done}/{progress.budget} trials ({share:.0%})", *_ended(progress)]
    if progress.running:
        parts.append(f"{progress.running} running in epoch {epoch_text(progress.epoch, progress.epochs)}")
    parts += [_best(progress)] + ([] if passed is None else [duration(passed)])
    if progress.left:
        parts.append(rate_text(rate))
        parts.append("time left not known yet" if left is None else f"about {duration(left)} left")
    return f"{name}: {', '.join(parts)}"


def cell_lines(name: str, progress: Progress) -> list[str]:
    """One line per cell, for a combination that has ended."""
    return [f"{name}: {_cell(cell, progress)}" for cell in progress.cells]


def _cell(cell: CellProgress, progress: Progress) -> str:
    alone = Progress((cell,), progress.epochs, progress.metric, progress.unit)
    parts = [f"{cell.done}/{cell.budget} trials", *_ended(alone), _best(alone)]
    exhausted = "; no more are tried, because as many have failed" if cell.done < cell.budget else ""
    label = cell_name(cell.rank, cell.init, progress.unit)
    return (f"{label}: " if cell.rank else "") + ", ".join(parts) + exhausted


def _ended(progress: Progress) -> list[str]:
    counts = {"pruned": progress.pruned, "failed": progress.failed}
    return [f"{count} {state}" for state, count in counts.items() if count]


def _best(progress: Progress) -> str:
    return "none complete yet" if progress.best is None else f"best {progress.metric} {progress.best:.4f}"


def summary_text(progress: Progress) -> str:
    """The trials and the best value of a combination, in a few words."""
    best = max(progress.cells, key=lambda cell: -1.0 if cell.best is None else cell.best)
    of = f" ({cell_name(best.rank, best.init, progress.unit)})" if best.best is not None and best.rank else ""
    return ", ".join([f"{progress.done}/{progress.budget} trials", *_ended(progress), _best(progress) + of])


def epoch_text(behind: int, epochs: int) -> str:
    """The epoch in training, from 1, and the epochs of a trial: ``3/9`` after two complete epochs."""
    return f"{min(behind + 1, epochs)}/{epochs}"


def rate_text(rate: float | None) -> str:
    """A rate in trials per second as text: ``48.2 trials/min``, ``3.5 trials/h``, ``- trials/min`` for None."""
    if rate is None:
        return "- trials/min"
    number, unit = (60 * rate, "min") if 60 * rate >= 1 else (3600 * rate, "h")
    return f"{number:,.0f} trials/{unit}" if number >= 99.95 else f"{number:.3g} trials/{unit}"
