"""``status --watch``: the progress of a study that another process searches."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from pipeline.results.progress import Progress, progress_of
from pipeline.terminal.live_table import LiveBoard, View
from pipeline.terminal.progress_lines import progress_line, trials_per_second
from pipeline.terminal.text import terminal_of

EVERY = 1.0
"""Seconds between two readings."""
SHARE = 0.1
"""The share of the time that reading may take; slow readings are further apart."""
TESTING = "testing the winners"
NOTES = {False: "no run is active; restora run resumes it", None: "it is not known here whether a run is active"}

Table = list[dict[str, Any]]


class Watch:
    """The progress of a study over time, from tables of ``status``; ``alive`` is None if a run may be active or not."""

    def __init__(self, study: str, table: Table, alive: bool | None) -> None:
        self.study = study
        self.table, self.alive, self.parts = table, alive, _parts(table)
        self.changed = list(self.parts)
        self.now = time.time()
        self._first, self._last_changed = (self.now, self._trials()), ""

    def update(self, table: Table, alive: bool | None) -> bool:
        """Take a new table; returns whether anything has changed. ``changed`` names the combinations that have."""
        before, parts = (self.table, self.alive), _parts(table)
        self.changed = [name for name, progress in parts.items() if self.parts.get(name) != progress]
        self._last_changed = next(iter(self.changed), self._last_changed)
        self.now, self.table, self.alive, self.parts = time.time(), table, alive, parts
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

    def _trials(self) -> float:
        return sum(progress.done + progress.parts for progress in self.parts.values())

    def _run(self) -> tuple[float, float] | None:
        """When the latest run began, and the trials that were done then; None if no run is known to be active.

        All trials of a combination that this run has not searched count as done before.
        """
        runs = {part["combination"]: part["run"] for part in self.table if part["run"]}
        if not self.alive or not runs:
            return None
        latest = max(run["began"] for run in runs.values())
        done = {name: progress.done for name, progress in self.parts.items()}
        done |= {name: run["done"] for name, run in runs.items() if run["began"] == latest}
        return datetime.fromisoformat(latest).timestamp(), sum(done.values())

    def view(self) -> View:
        """What the live table shows. The rate is that since the run began, or since watching began."""
        run = self._run()
        began, done = run or self._first
        searched = self.alive is not False and not self.testing
        rate = trials_per_second(self._trials() - done, self.now - began) if searched else None
        note = "" if self.finished or self.alive else NOTES[self.alive]
        passed = self.now - began if run else None
        return View(self.study, self.parts, self._current(), passed, rate, TESTING if self.testing else note)

    def _current(self) -> str:
        """The searched combination: one with running trials, else the last changed, else the first unfinished."""
        running = [name for name, progress in self.parts.items() if progress.running]
        unfinished = [name for name, progress in self.parts.items() if progress.left]
        changed = [name for name in unfinished if name == self._last_changed]
        return [*running, *changed, *unfinished, list(self.parts)[-1]][0]

    def facts(self) -> dict[str, Any]:
        """The table and the state of the run, for JSON."""
        parts, view = self.parts.values(), self.view()
        return {
            "study": self.study,
            "running": self.alive,
            "finished": self.finished,
            "trials": sum(progress.done for progress in parts),
            "budget": sum(progress.budget for progress in parts),
            "trials_per_minute": None if view.rate is None else round(60 * view.rate, 3),
            "seconds_left": None if view.study_left is None else round(view.study_left, 1),
            "combinations": self.table,
        }


def _parts(table: Table) -> dict[str, Progress]:
    return {combination["combination"]: progress_of(combination) for combination in table}


def watch_study(study: str, read: Callable[[], Table], alive: Callable[[], bool | None], *, as_json: bool) -> None:
    """Show a study until it is finished: as a live table on a terminal, otherwise one line per change.

    ``read`` gives the table of ``status``, and ``alive`` whether a run is active, or None if that is not known. Changes
    are lines of JSON if ``as_json``, also on a terminal.
    """
    alive_now = alive()  # before the table is read, which then is the last one if no run is active
    watched = Watch(study, read(), alive_now)
    screen = None if as_json else terminal_of(sys.stdout)
    if screen is not None:
        board = LiveBoard(screen, watched.view)
        try:
            board.start()
            for _ in _readings(watched, read, alive):
                board.refresh()
        finally:
            board.stop()
        return
    for is_new in _readings(watched, read, alive):
        if is_new and as_json:
            print(json.dumps(watched.facts(), allow_nan=False), flush=True)
        elif is_new:
            view = watched.view()
            for name in watched.changed:
                print(progress_line(name, watched.parts[name], view.rate, view.passed), flush=True)


def _readings(watched: Watch, read: Callable[[], Table], alive: Callable[[], bool | None]) -> Iterator[bool]:
    """Read until the study is finished; yields after each reading whether anything has changed."""
    is_new = True
    while True:
        yield is_new
        if watched.finished:
            return
        started = time.monotonic()
        time.sleep(EVERY)
        alive_now = alive()
        is_new = watched.update(read(), alive_now)
        time.sleep(max(0.0, (time.monotonic() - started - EVERY) / SHARE - EVERY))
