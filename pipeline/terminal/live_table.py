"""The live table of a search: a heading, one row per cell, and one line per finished combination."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console as Screen
from rich.console import Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from pipeline.results.progress import CellProgress, Progress
from pipeline.terminal.progress_lines import cell_row, cell_table, counts_text, rate_text, seconds_for, summary_text
from pipeline.terminal.text import GAP, can_show
from pipeline.wording import duration

BAR = 10
"""Characters of a cell's bar."""
NARROW = 60
"""The width in characters below which column names are short."""
ROOMY = 16
"""The height in lines from which a blank line precedes the heading."""
FEWEST = 3
"""Rows that are shown even if the terminal has too few lines."""
COLUMNS = ("rank", "init", "bar", "trials", "pruned", "failed", "running", "epoch", "best")
OPTIONAL = ("bar", "running", "pruned", "failed", "epoch", "init")
"""Columns that are left out on a narrow terminal, in this order."""
SOONEST = 0.25
"""The least seconds between two drawings."""
TICK = 1.0
"""Seconds after which the table is drawn again in any case, because time passes and terminals are resized."""
SIGNS = "━─✓·"
ASCII = str.maketrans(SIGNS, "=-+|")
"""Replacements of the signs for terminals whose encoding lacks them."""


@dataclass(frozen=True)
class View:
    """The state of a study that the table shows."""

    study: str
    parts: Mapping[str, Progress]  # of each combination, by its name
    current: str  # the combination that is searched
    passed: float | None  # seconds since the run began; None if no run is known
    rate: float | None  # trials per second; None if it is not known yet
    note: str = ""  # a further text for the heading
    ended: Collection[str] = ()  # the combinations that this run has left, failed ones too

    @property
    def progress(self) -> Progress:
        """The progress of the combination that is searched."""
        return self.parts[self.current]

    @property
    def study_left(self) -> float | None:
        """Seconds until the study's last trial ends, if all combinations are equally fast; None if not known yet."""
        remaining = (progress.remaining for name, progress in self.parts.items() if name not in self.ended)
        return seconds_for(sum(remaining), self.rate)


def board(view: View, width: int, height: int | None, *, plain: bool = False) -> list[Text]:
    """The lines of a view for a terminal of ``width`` characters and ``height`` lines; None for a table of any length.

    ``plain`` is for terminals that show only ASCII.
    """
    heading = [Text()] if height is None or height >= ROOMY else []
    heading += _heading(view, width)
    finished = _finished_lines(view)
    cells: Sequence[CellProgress] = view.progress.cells
    if height is not None:
        room = height - 1 - len(heading) - 1  # the cursor's line, and the names of the columns
        finished = finished[max(0, len(finished) - max(0, room - len(cells))) :]
        cells = _chosen(view.progress, max(FEWEST, room - len(finished)))
    lines = [*finished, *heading, *_table(view.progress, cells, width), *_hidden_line(view.progress, cells)]
    for line in lines:
        line.plain = line.plain.translate(ASCII) if plain else line.plain
        line.truncate(width, overflow="crop")
    return lines


def _heading(view: View, width: int) -> list[Text]:
    """Study, combination, time passed, rate and time left, on as many lines as they need."""
    count = len(view.parts)
    parts = [
        Text(f"{view.study}: {view.current}", style="bold"),
        Text(f"combination {list(view.parts).index(view.current) + 1} of {count}" if count > 1 else ""),
        Text(f"{view.progress.done}/{view.progress.budget} trials"),
        Text("" if view.passed is None else duration(view.passed)),
        *([] if view.note and view.rate is None else [Text(rate_text(view.rate)), Text(_left_text(view))]),
        Text(view.note, style="yellow"),
    ]
    lines: list[Text] = []
    for part in filter(None, parts):
        if lines and lines[-1].cell_len + len(" · ") + part.cell_len <= width:
            lines[-1].append(" · ", style="dim").append(part)
        else:
            lines.append(Text().append(part))
    return lines


def _left_text(view: View) -> str:
    seconds = seconds_for(view.progress.remaining, view.rate)
    left = "- left" if seconds is None else f"{duration(seconds)} left"
    left = left if view.progress.left else "done"
    if not view.study_left or len(view.parts) == 1:
        return left
    return f"{left}, the study about {duration(view.study_left)}"


def _finished_lines(view: View) -> list[Text]:
    finished = {name: part for name, part in view.parts.items() if name != view.current and not part.left}
    wide = max(map(len, finished), default=0)
    return [
        Text().append("✓ ", style="green").append(f"{name:<{wide}}{GAP}{summary_text(progress)}")
        for name, progress in finished.items()
    ]


def _chosen(progress: Progress, room: int) -> Sequence[CellProgress]:
    """As many cells as there is room for, in their order; the best, running and unfinished cells are preferred."""
    cells = progress.cells
    if len(cells) <= room:
        return cells
    preferred = sorted(cells, key=lambda cell: (cell is not progress.best_cell, not cell.running, not cell.left))
    shown = preferred[: room - 1]  # one line says how many more there are
    return [cell for cell in cells if cell in shown]


def _hidden_line(progress: Progress, shown: Sequence[CellProgress]) -> list[Text]:
    """How many cells have no row, and how many of them are running or done."""
    hidden = [cell for cell in progress.cells if cell not in shown]
    counts = counts_text(running=sum(cell.running > 0 for cell in hidden), done=sum(not cell.left for cell in hidden))
    more = ": ".join(filter(None, [f"and {len(hidden)} more", ", ".join(counts)]))
    return [Text(more, style="dim")] if hidden else []


def _table(progress: Progress, cells: Sequence[CellProgress], width: int) -> list[Text]:
    """The column names and one row per cell, with as many columns as fit the width."""
    rows = [{**cell_row(cell, progress), "bar": _bar(cell)} for cell in cells]
    for omitted in range(len(OPTIONAL) + 1):
        columns = [column for column in COLUMNS if column not in OPTIONAL[:omitted]]
        lines = cell_table(columns, rows, progress, narrow=width < NARROW)
        if max(line.cell_len for line in lines) <= width:
            break
    return lines


def _bar(cell: CellProgress) -> Text:
    full = BAR if not cell.left else BAR * cell.done // cell.budget
    colour = "red" if not cell.left and cell.done < cell.budget else "green"
    return Text().append("━" * full, style=colour).append("─" * (BAR - full), style="dim")


class LiveBoard:
    """The table of a view at the foot of a terminal; lines are printed above it."""

    def __init__(self, screen: Screen, view: Callable[[], View]) -> None:
        self._screen, self._view = screen, view
        self._plain = not can_show(SIGNS, screen.encoding)
        self._drawn, self._widths, self._last = float("-inf"), list[int](), False
        self._live = Live(console=screen, get_renderable=self._draw, refresh_per_second=1 / TICK, redirect_stdout=False)

    def start(self) -> None:
        self._live.start(refresh=True)

    def refresh(self) -> None:
        """Draw the table again, unless that was done less than ``SOONEST`` ago."""
        if time.monotonic() - self._drawn >= SOONEST:
            self._live.refresh()

    def print_above(self, line: str) -> None:
        self._screen.print(Text(line), soft_wrap=True)

    def stop(self) -> None:
        """Leave the whole table on the screen, and show the cursor again."""
        self._last = True
        try:
            self._live.stop()
        finally:  # a second Ctrl-C may have cut it short
            self._screen.show_cursor(True)

    def _draw(self) -> Group:
        width, height = self._screen.size
        if any(drawn > width for drawn in self._widths):
            self._clear_wrapped(width)
        lines = board(self._view(), width, None if self._last else height, plain=self._plain)
        self._drawn, self._widths = time.monotonic(), [line.cell_len for line in lines]
        return Group(*lines)

    def _clear_wrapped(self, width: int) -> None:
        """Clear the lines that a narrower terminal has wrapped; rich only clears as many lines as it has drawn."""
        wrapped = sum(max(0, -(-drawn // width) - 1) for drawn in self._widths)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * wrapped
        self._screen.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))
