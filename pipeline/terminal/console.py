"""What the command line says on stderr: log lines, and the progress of a search; both also go to a log file."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console as Screen

from pipeline.results.progress import Progress
from pipeline.search.events import Events
from pipeline.terminal.live_table import LiveBoard, View
from pipeline.terminal.progress_lines import cell_lines, progress_line, trials_per_second
from pipeline.terminal.text import terminal_of

logger = logging.getLogger(__name__)
PACKAGE = logging.getLogger("pipeline")
"""The logger above those of all modules."""

PLAIN_EVERY = 10.0
"""Seconds between two progress lines in the log file, and off a terminal."""


class Console(logging.Handler, Events):
    """Prints log lines, and shows a search: as a live table on a terminal, otherwise in lines.

    As a context it handles the lines of the logger ``pipeline`` in place of any other console. At its end the live
    table stays on the screen as it is. Lines are also appended to the file ``log``; ``parts`` is the progress of each
    combination as the run begins; without a ``screen`` the table is drawn on stderr if that is a terminal.
    """

    def __init__(
        self,
        log: Path | None = None,
        study: str = "",
        parts: Mapping[str, Progress] | None = None,
        screen: Screen | None = None,
    ) -> None:
        super().__init__()
        self._log, self._study, self._parts = log, study, dict(parts or {})
        self._screen = screen or terminal_of(sys.stderr)
        self._current, self._ended = "", set[str]()
        self._started, self._written = time.monotonic(), float("-inf")
        self._search_began, self._done_before = self._started, 0
        self._board: LiveBoard | None = None
        self._replaced: list[logging.Handler] = []
        self._level = logging.NOTSET

    def __enter__(self) -> "Console":
        self._replaced = [handler for handler in PACKAGE.handlers if isinstance(handler, Console)]
        self._level = PACKAGE.level
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
        self._append_to_log(line)
        if self._board is not None:
            self._board.print_above(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def progressed(self, combination: str, progress: Progress) -> None:
        """Draw the live table again, or write a line if the last is long enough ago."""
        now = time.monotonic()
        self._parts[combination] = progress
        if combination != self._current:
            self.end_table()  # of a combination that failed
            self._ended.add(self._current)
            self._current, self._search_began, self._done_before = combination, now, progress.done
            if not progress.left:
                done = f"{progress.done}/{progress.budget} trials are stored"
                logger.info(f"{combination}: {done}, none is left to train")
                return
        if self._board is not None:
            self._board.refresh()
        elif self._screen is not None:
            self._board = LiveBoard(self._screen, self.view)
            self._board.start()
        if not progress.left or (progress.running and now - self._written > PLAIN_EVERY):
            self._written = now
            self._write_lines()
        if not progress.left:
            self.end_table()

    def end_table(self) -> None:
        """Leave the live table on the screen as it is now."""
        if self._board is not None:
            self._board.stop()
            self._board = None

    def view(self) -> View:
        """What the live table shows now."""
        now, progress = time.monotonic(), self._parts[self._current]
        trials = progress.done - self._done_before + progress.parts
        rate = trials_per_second(trials, now - self._search_began)
        return View(self._study, self._parts, self._current, now - self._started, rate, ended=self._ended)

    def _write_lines(self) -> None:
        """Write the progress in lines, to the log file and where no table is drawn."""
        view = self.view()
        lines = [progress_line(view.current, view.progress, view.rate, view.passed)]
        lines += [] if view.progress.left else cell_lines(view.current, view.progress)
        for line in lines:
            self._append_to_log(line)
            if self._screen is None:
                print(line, file=sys.stderr, flush=True)

    def _append_to_log(self, line: str) -> None:
        if self._log is not None:  # it is not held open, because lines are few
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
