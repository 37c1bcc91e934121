"""The table of a running search: a heading, one row per cell, and one line per finished combination."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from pipeline.results.progress import CellProgress, Progress
from pipeline.terminal.progress_lines import epoch_text, rate_text, summary_text
from pipeline.terminal.text import GAP, aligned
from pipeline.wording import duration

BAR = 10
"""Characters of a cell's bar."""
NARROW = 60
"""The width in characters below which column names are short."""
ROOMY = 16
"""The height in lines from which a blank line precedes the heading."""
FEWEST = 3
"""Rows that are shown even if the terminal has too few lines."""
LEAST = ("bar", "running", "pruned", "failed", "epoch", "init")
"""Columns that are left out on a narrow terminal, in this order."""
SIGNS = "━─✓·"
ASCII = str.maketrans(SIGNS, "=-+|")
"""Replacements of the signs for terminals whose encoding lacks them."""


@dataclass(frozen=True)
class View:
    """The state of a study that the table shows.

    Args:
        study: Its name.
        combination: The name of the combination that is searched.
        place: The number of this combination in the study, from 1, and the number of combinations.
        progress: The progress of this combination.
        passed: Seconds since the run began; None if no run is known.
        rate: Trials per second; None if it is not known yet.
        left: Seconds until the combination's last trial ends; None if it is not known yet.
        study_left: Seconds until the study's last trial ends, if all combinations are equally fast.
        done: The finished combinations with their progress.
        note: A further text for the heading.
    """

    study: str
    combination: str
    place: tuple[int, int]
    progress: Progress
    passed: float | None
    rate: float | None
    left: float | None
    study_left: float | None
    done: Sequence[tuple[str, Progress]] = ()
    note: str = ""


def board(view: View, width: int, height: int | None, *, plain: bool = False) -> list[Text]:
    """The lines of a view, as wide and as many as the terminal can show.

    Args:
        view: What is shown.
        width: Characters of a line.
        height: Lines of the terminal; None for a table of any length.
        plain: Whether the terminal shows only ASCII.
    """
    heading = [Text()] if height is None or height >= ROOMY else []
    heading += _heading(view, width)
    done: Sequence[tuple[str, Progress]] = view.done
    cells: Sequence[CellProgress] = view.progress.cells
    if height is not None:
        room = height - 1 - len(heading) - 1  # the cursor's line, and the names of the columns
        done = done[max(0, len(done) - max(0, room - len(cells))) :]
        cells = _chosen(cells, max(FEWEST, room - len(done)))
    hidden = len(view.progress.cells) - len(cells)
    lines = [*_done_lines(done), *heading, *_table(view.progress, cells, width)]
    if hidden:
        lines.append(Text(f"and {_hidden_text(view.progress, cells)}", style="dim"))
    for line in lines:
        line.plain = line.plain.translate(ASCII) if plain else line.plain
        line.truncate(width, overflow="crop")
    return lines


def _heading(view: View, width: int) -> list[Text]:
    """Study, combination, time passed, rate and time left, on as many lines as they need."""
    place, of = view.place
    parts = [
        Text(f"{view.study}: {view.combination}", style="bold"),
        Text(f"combination {place} of {of}") if of > 1 else Text(),
        Text(f"{view.progress.done}/{view.progress.budget} trials"),
        Text("" if view.passed is None else duration(view.passed)),
        *([] if view.note and view.rate is None else [Text(rate_text(view.rate)), Text(_left_text(view))]),
        Text(view.note, style="yellow"),
    ]
    lines: list[Text] = []
    for part in (part for part in parts if part):
        if lines and lines[-1].cell_len + len(" · ") + part.cell_len <= width:
            lines[-1].append(" · ", style="dim").append(part)
        else:
            lines.append(Text().append(part))
    return lines


def _left_text(view: View) -> str:
    left = "- left" if view.left is None else f"{duration(view.left)} left"
    left = left if view.progress.left else "done"
    if not view.study_left or view.place[1] == 1:
        return left
    return f"{left}, the study about {duration(view.study_left)}"


def _done_lines(done: Sequence[tuple[str, Progress]]) -> list[Text]:
    wide = max((len(name) for name, _ in done), default=0)
    return [
        Text().append("✓ ", style="green").append(f"{name:<{wide}}").append(f"{GAP}{summary_text(progress)}")
        for name, progress in done
    ]


def _chosen(cells: Sequence[CellProgress], room: int) -> Sequence[CellProgress]:
    """As many cells as there is room for, in their order; the best, running and unfinished cells are preferred."""
    if len(cells) <= room:
        return cells
    best = _best_place(cells)
    order = sorted(
        range(len(cells)), key=lambda place: (place != best, not cells[place].running, not cells[place].left, place)
    )
    return [cells[place] for place in sorted(order[: room - 1])]  # one line says how many more there are


def _hidden_text(progress: Progress, shown: Sequence[CellProgress]) -> str:
    hidden = [cell for cell in progress.cells if cell not in shown]
    counts = {
        "running": sum(bool(cell.running) for cell in hidden),
        "done": sum(not cell.left for cell in hidden),
    }
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(hidden)} more" + (f": {said}" if said else "")


def _best_place(cells: Sequence[CellProgress]) -> int | None:
    values = [-1.0 if cell.best is None else cell.best for cell in cells]
    best = max(values, default=-1.0)
    return values.index(best) if best >= 0 else None


def _table(progress: Progress, cells: Sequence[CellProgress], width: int) -> list[Text]:
    """The column names and one row per cell, with as many columns as fit the width."""
    best = _best_place(progress.cells)
    rows = [_row(cell, progress, is_best=best is not None and cell is progress.cells[best]) for cell in cells]
    columns = {
        "rank": progress.unit or "rank", "init": "init", "bar": "", "trials": "trials", "pruned": "pruned",
        "failed": "failed", "running": "running", "epoch": "epoch",
        "best": f"best {progress.metric}" if width >= NARROW else "best",
    }  # fmt: skip
    if not any(cell.rank for cell in progress.cells):
        del columns["rank"], columns["init"]
    lines = _of_columns(columns, rows)
    for least in LEAST:
        if max(line.cell_len for line in lines) <= width:
            break
        columns.pop(least, None)
        lines = _of_columns(columns, rows)
    return lines


def _of_columns(columns: Mapping[str, str], rows: Sequence[Mapping[str, Text]]) -> list[Text]:
    header = [Text(name, style="dim") for name in columns.values()]
    left = [place for place, key in enumerate(columns) if key in ("init", "bar")]
    return aligned([header, *([row[key] for key in columns] for row in rows)], left)


def _row(cell: CellProgress, progress: Progress, *, is_best: bool) -> dict[str, Text]:
    running, style = bool(cell.running), "bold green" if is_best else ""
    return {
        "rank": Text(str(cell.rank), style=style),
        "init": Text(cell.init, style=style),
        "bar": _bar(cell),
        "trials": Text(f"{cell.done}/{cell.budget}"),
        "pruned": Text(str(cell.pruned), style="" if cell.pruned else "dim"),
        "failed": Text(str(cell.failed), style="red" if cell.failed else "dim"),
        "running": Text(str(cell.running), style="" if running else "dim"),
        "epoch": Text(epoch_text(cell.epoch, progress.epochs)) if running else Text("-", style="dim"),
        "best": Text("-", style="dim") if cell.best is None else Text(f"{cell.best:.4f}", style=style),
    }


def _bar(cell: CellProgress) -> Text:
    full = BAR if not cell.left else BAR * cell.done // cell.budget
    colour = "red" if not cell.left and cell.done < cell.budget else "green"
    return Text().append("━" * full, style=colour).append("─" * (BAR - full), style="dim")
