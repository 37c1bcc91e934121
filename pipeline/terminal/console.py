"""What the command line says on stderr: log lines, and the progress of a search; both also go to a log file."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO

from pipeline.results.progress import Progress
from pipeline.search.events import Events
from pipeline.terminal.progress_lines import cell_lines, progress_line
from pipeline.terminal.rate import Searched

if TYPE_CHECKING:
    from rich.console import Console as Screen

    from pipeline.terminal.live_display import LiveBoard
    from pipeline.terminal.live_table import View

logger = logging.getLogger(__name__)
PACKAGE = logging.getLogger("pipeline")
"""The logger above those of all modules."""

PLAIN_EVERY = 10.0
"""Seconds between two progress lines in the log file, and off a terminal."""
NONE: Mapping[str, int] = MappingProxyType({})


def terminal_of(stream: TextIO) -> "Screen | None":
    """The terminal behind a stream; None if it is none, or if its lines cannot be redrawn."""
    if not stream.isatty() or os.environ.get("TERM") in (None, "", "dumb", "unknown"):
        return None
    from pipeline.terminal.text import screen_of  # it brings rich, which plain lines do not need

    return screen_of(stream)


class Console(logging.Handler, Events):
    """Prints log lines, and shows a search: as a live table on a terminal, otherwise in lines.

    As a context it handles the lines of the logger ``pipeline`` in place of any other console. At its end the live
    table stays on the screen as it is.

    Args:
        log: The file that lines are appended to; None for no file.
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
        super().__init__()
        self._log, self._study, self._outline = log, study, dict(outline)
        self._given = screen
        self._started, self._noted = time.monotonic(), float("-inf")
        self._searched: dict[str, Searched] = {}
        self._board: LiveBoard | None = None
        self._replaced: list[logging.Handler] = []
        self._level = logging.NOTSET

    @cached_property
    def _screen(self) -> "Screen | None":
        return self._given or terminal_of(sys.stderr)

    def __enter__(self) -> "Console":
        self._replaced, self._level = [each for each in PACKAGE.handlers if isinstance(each, Console)], PACKAGE.level
        for handler in self._replaced:
            PACKAGE.removeHandler(handler)
        PACKAGE.addHandler(self)
        PACKAGE.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        self.end_table()
        PACKAGE.removeHandler(self)
        for handler in self._replaced:
            PACKAGE.addHandler(handler)
        PACKAGE.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one log line, above the live table if there is one."""
        line = record.getMessage()
        self._note(line)
        if self._board is not None:
            self._board.print_above(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def progressed(self, combination: str, progress: Progress) -> None:
        """Draw the live table again, or write a line if the last is long enough ago."""
        now = time.monotonic()
        if combination not in self._searched:
            self.end_table()  # of one that failed
            self._searched[combination] = Searched(combination, progress, now, progress.done)
            if not progress.left:
                logger.info(
                    f"{combination}: {progress.done}/{progress.budget} trials are stored, none is left to train"
                )
                return
        self._searched[combination].progress = progress
        if self._screen is not None:
            self._draw(self._screen)
        if not progress.left or (progress.running and now - self._noted > PLAIN_EVERY):
            self._noted = now
            self._write(combination, now)
        if not progress.left:
            self.end_table()

    def _draw(self, screen: "Screen") -> None:
        from pipeline.terminal.live_display import LiveBoard  # it brings rich, which plain lines do not need

        if self._board is None:
            self._board = LiveBoard(screen, self._view)
            self._board.start()
        else:
            self._board.refresh()

    def end_table(self) -> None:
        """Leave the live table on the screen as it is now."""
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
