"""The table of a search that goes on: a heading, a row a cell, a line for each combination that is done."""

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
"""Characters below which names of columns are short."""
ROOMY = 16
"""Lines from which on the heading has a blank one before it."""
FEWEST = 3
"""Rows that are shown however low the terminal is."""
LEAST = ("bar", "running", "pruned", "failed", "epoch", "init")
"""Columns that a narrow terminal goes without, the first of them first."""
SIGNS = "━─✓·"
ASCII = str.maketrans(SIGNS, "=-+|")
"""What stands for the signs where a terminal's encoding lacks them."""


@dataclass(frozen=True)
class View:
    """What is to be seen of a study at a moment.

    Args:
        study: Its name.
        combination: The name of the combination that is searched.
        place: Which of the study's combinations that is, from 1, and how many there are.
        progress: Where it stands.
        passed: Seconds since the run began; none where no run is known.
        rate: Trials that end a second; none before anything is known.
        left: Seconds until the combination's last trial has ended; none before anything is known.
        study_left: Seconds until the study's last trial has ended, if all its combinations are as quick.
        done: Combinations that have ended, with what is known of them.
        note: What else is to be said in the heading.
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
    """The lines of a view, none wider than the terminal, and no more of them than it has.

    Args:
        view: What is shown.
        width: Characters of a line.
        height: Lines; none where the table may be as long as it is.
        plain: Whether the terminal shows ASCII alone.
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
    """Study, combination, time passed, rate, time left; a new line begins where one is full."""
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
    own = "- left" if view.left is None else f"{duration(view.left)} left"
    own = own if view.progress.left else "done"
    if not view.study_left or view.place[1] == 1:
        return own
    return f"{own}, the study about {duration(view.study_left)}"


def _done_lines(done: Sequence[tuple[str, Progress]]) -> list[Text]:
    wide = max((len(name) for name, _ in done), default=0)
    return [
        Text().append("✓ ", style="green").append(f"{name:<{wide}}").append(f"{GAP}{summary_text(progress)}")
        for name, progress in done
    ]


def _chosen(cells: Sequence[CellProgress], room: int) -> Sequence[CellProgress]:
    """As many cells as there is room for, in their order: the best, those that run, those with most to come."""
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
    """The names of the columns and a row a cell, with as many columns as the width takes."""
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
