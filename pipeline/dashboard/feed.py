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
"""Seconds that an update waits for another program that writes to the database; it is left out then."""
Seen = tuple[Hashable, ...]


@dataclass
class _Pace:
    """Lets a kind of update happen as often as its share of the run's time allows.

    Args:
        share: Part of the time that it may take.
        last: Seconds that the last update took; at first those that it is expected to take.
        spent: Seconds that all took.
    """

    share: float
    last: float
    spent: float = 0.0

    def allows(self, elapsed: float) -> bool:
        return self.spent + self.last <= self.share * elapsed

    def add(self, seconds: float) -> None:
        self.last, self.spent = seconds, self.spent + seconds


class Feed(Events):
    """Tells those who look at a study in optuna-dashboard how far it is.

    Its updates after epochs take 1 % of the run's time; there are others where searches and the run begin and end.

    Args:
        storage: The database of the stored studies.
        study: The study's name.
    """

    def __init__(self, storage: Database, study: str) -> None:
        self._storage, self._study = storage, study
        self._began = time.monotonic()
        self._notes, self._pictures = _Pace(0.002, last=0.05), _Pace(0.008, last=1.5)  # to import plotly takes a while
        self._winners: Winners = {}
        self._drawn: dict[str, Seen] = {}
        self._summary: optuna.Study | None = None
        self._summed: Seen = ()
        self._said: set[str] = set()

    @property
    def seconds(self) -> float:
        """Seconds that all updates took so far."""
        return self._notes.spent + self._pictures.spent

    def progressed(self, combination: str, progress: Progress) -> None:
        """Bring everything up to date if updates have taken less than their share of the run's time."""
        pictures = self._pictures.allows(self._elapsed)
        if pictures or self._notes.allows(self._elapsed):
            self._bring_up_to_date(pictures=pictures)

    def reached(self, moment: Moment) -> None:
        """Bring everything up to date; pictures at the end, and after a search if they have taken less than theirs."""
        self._bring_up_to_date(
            pictures=moment == "ended" or (moment == "searched" and self._pictures.allows(self._elapsed))
        )

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _bring_up_to_date(self, *, pictures: bool) -> None:
        start = time.perf_counter()
        try:
            self._update(pictures=pictures)
        except Exception as error:  # whatever it is, a search is not to be lost for a picture
            self._say_once(f"what the dashboard shows was not brought up to date: {type(error).__name__}: {error}")
        finally:
            (self._pictures if pictures else self._notes).add(time.perf_counter() - start)

    def _update(self, *, pictures: bool) -> None:
        results = read_tallied(self._storage, self._study, self._winners)
        if not results:
            return
        for result in results:
            self._write(result.study, combination_note(result), [result], pictures=pictures)
        self._summary = self._summary or open_summary(self._storage, self._study, results[0].metric)
        if self._summary is None:
            self._say_once(f"this database has a study '{self._study}' of someone else's: it stays, without a summary")
            return
        seen = _seen(results)
        if seen != self._summed:
            update_summary(self._summary, results)
            self._summed = seen
        self._write(self._summary, study_note(results), results, pictures=pictures)

    def _write(self, study: optuna.Study, note: str, results: Sequence[CombinationResult], *, pictures: bool) -> None:
        seen, name = _seen(results), study.study_name
        drawn = draw_plots(results) if pictures and self._drawn.get(name) != seen else {}
        write_board(self._storage.engine, study_id_of(study), note, drawn)
        if pictures:
            self._drawn[name] = seen

    def _say_once(self, line: str) -> None:
        line = line.partition("\n")[0]
        if line not in self._said:
            self._said.add(line)
            logger.warning(line)


def _seen(results: Sequence[CombinationResult]) -> Seen:
    """What the summary and the pictures of some combinations depend on."""
    return tuple(
        (
            result.name,
            tuple(result.baseline.items()),
            tuple(result.compressed.items()),
            tuple((cell.cell, cell.best and cell.best.number, cell.tested) for cell in result.cells),
        )
        for result in results
    )
