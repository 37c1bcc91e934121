"""``status --watch``: the progress of a study that another process searches."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.results.progress import Progress, progress_of
from pipeline.terminal.console import terminal_of
from pipeline.terminal.progress_lines import progress_line
from pipeline.terminal.rate import seconds_for, trials_per_second

if TYPE_CHECKING:
    from rich.console import Console as Screen

    from pipeline.terminal.live_table import View

EVERY = 1.0
"""Seconds between two readings."""
SHARE = 0.1
"""The share of the time that reading may take; slow readings are further apart."""
TESTING = "testing the winners"
NOTES = {False: "no run is active; restora run resumes it", None: "it is not known here whether a run is active"}

Table = list[dict[str, Any]]


class Watch:
    """The progress of a study over time.

    Args:
        study: Its name.
        table: The first table of ``status``.
        alive: Whether a run of it is active; None if that is not known.
    """

    def __init__(self, study: str, table: Table, alive: bool | None) -> None:
        self.study, self.table, self.alive = study, table, alive
        self.now = time.time()
        self.parts = _parts(table)
        self._first, self._moved = (self.now, self._done()), ""

    def look(self, table: Table, alive: bool | None) -> bool:
        """Take a new table; returns whether anything has changed."""
        before = (self.table, self.alive)
        moved = [new["combination"] for old, new in zip(self.table, table, strict=False) if old != new]
        self.now, self.table, self.alive, self.parts = time.time(), table, alive, _parts(table)
        self._moved = next(iter(moved), self._moved)
        return (table, alive) != before

    @property
    def finished(self) -> bool:
        """Whether no trial is left, and no active run still tests winners."""
        return not self._searching and not self.testing

    @property
    def testing(self) -> bool:
        """Whether all searches have ended, and the active run has winners to test."""
        cells = [cell for combination in self.table for cell in combination["cells"]]
        untested = any(cell["best"] is not None and not cell["tested"] for cell in cells)
        return bool(self.alive) and untested and not self._searching

    @property
    def _searching(self) -> bool:
        """Whether a cell has trials left: its budget is not met, and it is not exhausted."""
        return any(progress.left for progress in self.parts.values())

    def _done(self) -> float:
        return sum(progress.done + progress.parts for progress in self.parts.values())

    def _run(self) -> tuple[float, float] | None:
        """When the latest run began, and the trials that were done then; None if no run is known to be active.

        All trials of a combination that this run has not searched count as done before.
        """
        runs = {part["combination"]: part["run"] for part in self.table if part["run"]}
        if not self.alive or not runs:
            return None
        latest = max(run["began"] for run in runs.values())
        own = {name: run["done"] for name, run in runs.items() if run["began"] == latest}
        done = sum(own.get(name, progress.done) for name, progress in self.parts.items())
        return datetime.fromisoformat(latest).timestamp(), done

    @property
    def passed(self) -> float | None:
        """Seconds since the run began; None if no run is known to be active."""
        run = self._run()
        return self.now - run[0] if run else None

    @property
    def rate(self) -> float | None:
        """Trials per second since the run began, or since watching began; None if no run searches."""
        began, done = self._run() or self._first
        known = self.alive is not False and not self.testing
        return trials_per_second(self._done() - done, self.now - began) if known else None

    @property
    def left(self) -> float | None:
        """Seconds until the study's last trial has ended."""
        return seconds_for(sum(each.left - each.parts for each in self.parts.values()), self.rate)

    def view(self) -> "View":
        from pipeline.terminal.live_table import View

        parts, rate = self.parts, self.rate
        current = self._current(parts)
        return View(
            study=self.study,
            combination=current,
            place=(list(parts).index(current) + 1, len(parts)),
            progress=parts[current],
            passed=self.passed,
            rate=rate,
            left=seconds_for(parts[current].left - parts[current].parts, rate),
            study_left=self.left,
            done=[(name, each) for name, each in parts.items() if name != current and not each.left],
            note=self._note,
        )

    @property
    def _note(self) -> str:
        if self.testing:
            return TESTING
        return "" if self.finished or self.alive else NOTES[self.alive]

    def _current(self, parts: Mapping[str, Progress]) -> str:
        """The searched combination: one with running trials, else the last changed, else the first unfinished."""
        running = [name for name, each in parts.items() if each.running]
        moved = [name for name in parts if name == self._moved and parts[name].left]
        unfinished = [name for name, each in parts.items() if each.left]
        return (running + moved + unfinished + list(parts)[-1:])[0]

    def facts(self) -> dict[str, Any]:
        """The table and the state of the run, for JSON."""
        parts = self.parts.values()
        return {
            "study": self.study,
            "running": self.alive,
            "finished": self.finished,
            "trials": sum(each.done for each in parts),
            "budget": sum(each.budget for each in parts),
            "trials_per_minute": None if self.rate is None else round(60 * self.rate, 3),
            "seconds_left": None if self.left is None else round(self.left, 1),
            "combinations": self.table,
        }


def _parts(table: Table) -> dict[str, Progress]:
    return {combination["combination"]: progress_of(combination) for combination in table}


def watch(study: str, read: Callable[[], Table], alive: Callable[[], bool | None], *, as_json: bool) -> None:
    """Show a study until it is finished: as a live table on a terminal, otherwise one line per change.

    Args:
        study: Its name.
        read: Reads the table of ``status``.
        alive: Returns whether a run is active; None if that is not known.
        as_json: Whether to print one JSON object per change, also on a terminal.
    """
    alive_now = alive()  # before the table is read, which then is the last one if no run is active
    seen = Watch(study, read(), alive_now)
    told: dict[str, Progress] = {}
    with _shown(None if as_json else terminal_of(sys.stdout), seen) as refresh:
        new = True
        while True:
            if refresh is not None:
                refresh()
            elif new and as_json:
                print(json.dumps(seen.facts(), allow_nan=False), flush=True)
            elif new:
                told = _tell(seen, told)
            if seen.finished:
                return
            started = time.monotonic()
            time.sleep(EVERY)
            alive_now = alive()
            new = seen.look(read(), alive_now)
            time.sleep(max(0.0, (time.monotonic() - started - EVERY) / SHARE - EVERY))


def _tell(seen: Watch, told: Mapping[str, Progress]) -> dict[str, Progress]:
    """Print one line per combination that has changed."""
    parts = seen.parts
    for name, progress in parts.items():
        if told.get(name) != progress:
            left = seconds_for(progress.left - progress.parts, seen.rate)
            print(progress_line(name, progress, seen.rate, seen.passed, left), flush=True)
    return parts


@contextmanager
def _shown(screen: "Screen | None", seen: Watch) -> Iterator[Callable[[], None] | None]:
    """Show the live table while the context lasts; yields the function that draws it again, or None off a terminal."""
    if screen is None:
        yield None
        return
    from pipeline.terminal.live_display import LiveBoard

    drawn = LiveBoard(screen, seen.view)
    try:
        drawn.start()
        yield drawn.refresh
    finally:
        drawn.stop()
