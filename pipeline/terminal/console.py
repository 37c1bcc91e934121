"""Says lines, and where a search stands, on stderr; keeps both in a log file."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pipeline.results.progress import Progress
from pipeline.terminal.progress_lines import cell_lines, progress_line
from pipeline.terminal.rate import Searched
from pipeline.terminal.tty import terminal_of

if TYPE_CHECKING:
    from rich.console import Console as Screen

    from pipeline.terminal.live_display import LiveBoard
    from pipeline.terminal.live_table import View

PLAIN_EVERY = 10.0
"""Seconds between two progress lines in the log file, and off a terminal."""
NONE: Mapping[str, int] = MappingProxyType({})


class Console:
    """Says lines, and shows searches: as a live table on a terminal, else in lines. As a context it ends the table.

    Args:
        log: The file that lines are appended to.
        study: The name of the study that is searched.
        outline: Trials that each of its combinations still lacks as the run begins.
        screen: The terminal to draw on; stderr, where that is one.
    """

    def __init__(
        self,
        log: Path | None = None,
        study: str = "",
        outline: Mapping[str, int] = NONE,
        screen: "Screen | None" = None,
    ) -> None:
        self._log, self._study, self._outline = log, study, dict(outline)
        self._screen = screen or terminal_of(sys.stderr)
        self._started, self._noted = time.monotonic(), float("-inf")
        self._searched: dict[str, Searched] = {}
        self._board: LiveBoard | None = None

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_board()

    def say(self, line: str) -> None:
        """One line that stays."""
        self._note(line)
        if self._board is not None:
            self._board.say(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def show(self, name: str, progress: Progress) -> None:
        """Where the combination of that name stands."""
        now = time.monotonic()
        if name not in self._searched:
            self._end_board()  # of one that failed
            self._searched[name] = Searched(name, progress, now, progress.done)
            if not progress.left:
                self.say(f"{name}: {progress.done}/{progress.budget} trials are stored, none is left to train")
                return
        self._searched[name].progress = progress
        if self._screen is not None:
            self._draw(self._screen)
        if not progress.left or (progress.running and now - self._noted > PLAIN_EVERY):
            self._noted = now
            self._write(name, now)
        if not progress.left:
            self._end_board()

    def _draw(self, screen: "Screen") -> None:
        from pipeline.terminal.live_display import LiveBoard  # it brings rich, which plain lines do not need

        if self._board is None:
            self._board = LiveBoard(screen, self._view)
            self._board.start()
        else:
            self._board.refresh()

    def _end_board(self) -> None:
        if self._board is not None:
            self._board.stop()
            self._board = None

    def _view(self) -> "View":
        from pipeline.terminal.live_table import View

        *before, current = self._searched.values()
        now, names = time.monotonic(), list(self._outline) or list(self._searched)
        return View(
            study=self._study,
            combination=current.name,
            place=(names.index(current.name) + 1, len(names)),
            progress=current.progress,
            passed=now - self._started,
            rate=current.rate(now),
            left=current.seconds_left(now),
            study_left=current.seconds_left(now, self._to_come()),
            done=[(each.name, each.progress) for each in before if not each.progress.left],
        )

    def _to_come(self) -> int:
        """Trials of combinations that have not begun."""
        return sum(left for name, left in self._outline.items() if name not in self._searched)

    def _write(self, name: str, now: float) -> None:
        """Progress in lines, to the log file and where no table is drawn."""
        own = self._searched[name]
        lines = [progress_line(name, own.progress, own.rate(now), now - self._started, own.seconds_left(now))]
        lines += [] if own.progress.left else cell_lines(name, own.progress)
        for line in lines:
            self._note(line)
            if self._screen is None:
                print(line, file=sys.stderr, flush=True)

    def _note(self, line: str) -> None:
        """Append to the log file, which is not held open: lines are few."""
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
