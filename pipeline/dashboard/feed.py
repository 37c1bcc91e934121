"""What a run writes for optuna-dashboard while it goes on: notes, pictures and the summary study."""

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import optuna

from pipeline.dashboard.note import combination_note, study_note
from pipeline.dashboard.plots import draw_plots
from pipeline.dashboard.study_board import write_board
from pipeline.dashboard.summary_study import open_summary, update_summary
from pipeline.results.combination_result import CombinationResult
from pipeline.results.progress import Progress
from pipeline.results.reading import Winners, read_tallied
from pipeline.search.events import Events, Moment
from pipeline.store.database import Database
from pipeline.store.optuna_tables import study_id_of

logger = logging.getLogger(__name__)

FEED_WAIT = 0.5
"""Seconds that an update waits for another program that writes to the database, before the update is skipped."""
Seen = tuple[Hashable, ...]


@dataclass
class _Budget:
    """Limits a kind of update to a share of the run's time."""

    share: float
    last: float
    """Seconds that the last update took; before the first one an estimate."""
    spent: float = 0.0
    """Seconds that all updates took."""

    def allows(self, elapsed: float) -> bool:
        return self.spent + self.last <= self.share * elapsed

    def add(self, seconds: float) -> None:
        self.last, self.spent = seconds, self.spent + seconds


class Feed(Events):
    """Keeps notes, pictures and the summary study up to date while a run goes on.

    Updates after epochs take at most 1 % of the run's time. Further ones follow the begin and the end of each search.
    """

    def __init__(self, storage: Database, study: str) -> None:
        self._storage, self._study = storage, study
        self._began = time.monotonic()
        self._notes, self._pictures = _Budget(0.002, last=0.05), _Budget(0.008, last=1.5)  # plotly is imported first
        self._winners: Winners = {}
        self._drawn: dict[str, Seen] = {}
        self._summary: optuna.Study | None = None
        self._summarized: Seen = ()
        self._warned: set[str] = set()

    def progressed(self, combination: str, progress: Progress) -> None:
        """Update everything, if updates have taken less than their share of the run's time."""
        elapsed = time.monotonic() - self._began
        pictures = self._pictures.allows(elapsed)
        if pictures or self._notes.allows(elapsed):
            self._update_safely(pictures=pictures)

    def reached(self, moment: Moment) -> None:
        """Update everything; pictures only at the end, or after a search if their share of the time allows it."""
        is_due = moment == "searched" and self._pictures.allows(time.monotonic() - self._began)
        self._update_safely(pictures=is_due or moment == "ended")

    def _update_safely(self, *, pictures: bool) -> None:
        start = time.perf_counter()
        try:
            self._update(pictures=pictures)
        except Exception as error:  # no failure here may end a search
            self._warn_once(f"the dashboard's notes and pictures were not updated: {type(error).__name__}: {error}")
        finally:
            (self._pictures if pictures else self._notes).add(time.perf_counter() - start)

    def _update(self, *, pictures: bool) -> None:
        results = read_tallied(self._storage, self._study, self._winners)
        if not results:
            return
        for result in results:
            self._storage.follow(study_id_of(result.study))
            self._write(result.study, combination_note(result), [result], pictures=pictures)
        self._summary = self._summary or open_summary(self._storage, self._study, results[0].metric)
        if self._summary is None:
            self._warn_once(f"no summary study: another program made a study '{self._study}' in this database")
            return
        seen = _seen(results)
        if seen != self._summarized:
            update_summary(self._summary, results)
            self._summarized = seen
        self._write(self._summary, study_note(results), results, pictures=pictures)

    def _write(self, study: optuna.Study, note: str, results: Sequence[CombinationResult], *, pictures: bool) -> None:
        seen, name = _seen(results), study.study_name
        drawn = draw_plots(results) if pictures and self._drawn.get(name) != seen else {}
        write_board(self._storage, study_id_of(study), note, drawn)
        if pictures:
            self._drawn[name] = seen

    def _warn_once(self, line: str) -> None:
        line = line.partition("\n")[0]
        if line not in self._warned:
            self._warned.add(line)
            logger.warning(line)


def _seen(results: Sequence[CombinationResult]) -> Seen:
    """Everything that the summary and the pictures of some combinations depend on."""
    return tuple(
        (
            result.name,
            tuple(result.baseline.items()),
            tuple(result.compressed.items()),
            tuple((cell.cell, cell.best and cell.best.number, cell.tested) for cell in result.cells),
        )
        for result in results
    )
