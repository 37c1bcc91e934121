"""The ledger: writes the trials of a search into its stored study, and counts them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pipeline.cell import Cell
from pipeline.space import Ask
from pipeline.store.curves import attach_picture, draw_curves
from pipeline.store.database import database_of
from pipeline.store.optuna_tables import (
    begin_trial,
    end_trial,
    study_id_of,
    trial_id_of,
    write_attributes,
    write_epochs,
    write_study_attribute,
)
from pipeline.store.stored_study import metric_of
from pipeline.store.tally import COVERED, belongs_to_history, tally_trials

LONG = 10.0
"""Seconds after which a trial gets a row while it runs; a shorter trial is written when it has ended."""
EVERY = 1.0
"""Seconds between two updates of the row of a running trial."""
SHARE = 0.02
"""Largest part of the time since the search began that updating rows of running trials may take."""
AT_FIRST = 0.2
"""Seconds that these updates may take beside that, so that a search that has just begun shows its trials too."""


@dataclass(frozen=True)
class _Row:
    """The row of a trial: its id in the database, its number, the epochs that are written, and when (monotonic)."""

    trial_id: int
    number: int
    epochs: int = 0
    updated: float = 0.0


class Ledger:
    """Writes trials into a stored study, and in the same transaction the tally of their cell.

    Args:
        study: The stored study. The ledger is its only writer of trials.
        space: The full space of the study, including rank and init.
    """

    def __init__(self, study: optuna.Study, space: Mapping[str, BaseDistribution]) -> None:
        self.study, self._space = study, dict(space)
        self._database, self._study_id = database_of(study), study_id_of(study)
        self._metric = metric_of(study)
        self.seconds = 0.0
        """Seconds spent in the database so far."""
        self._updating, self._began = 0.0, time.monotonic()
        self._rows: dict[Ask, _Row] = {}
        self._pending: dict[Ask, tuple[list[float], Callable[[], Mapping[str, Any]]]] = {}
        trials = study.get_trials(deepcopy=False)
        self._covered = Counter(trial.state.name for trial in trials)
        self.tallies = tally_trials(trials)
        """What the trials of each cell came to, over all runs."""
        if study.user_attrs.get(COVERED) != self._covered:
            with self._transaction() as session:
                self._write_tallies(session, *self.tallies)

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        start = time.perf_counter()
        try:
            with self._database.transaction(self._study_id) as session:
                yield session
        finally:
            self.seconds += time.perf_counter() - start

    def _write_tallies(self, session: Session, *cells: Cell) -> None:
        for cell in cells:
            write_study_attribute(session, self._study_id, cell.summary_key, self.tallies[cell].stored())
        covered = {state: count for state, count in self._covered.items() if count}
        write_study_attribute(session, self._study_id, COVERED, covered)

    def progress(self, ask: Ask, accuracies: list[float], attributes: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Update the row of a trial that runs, about once a second, if it is long and time allows.

        An update writes all that is pending, of other trials too. ``attributes`` makes the trial's
        user attributes; it is called only if the trial gets its row.
        """
        now, row = time.monotonic(), self._rows.get(ask)
        self._pending[ask] = accuracies, attributes
        due = _is_long(ask) if row is None else now - row.updated >= EVERY
        if not due or self._updating > AT_FIRST + SHARE * (now - self._began):
            return
        before = self.seconds
        with self._transaction() as session:
            rows = {
                ask: self._update(session, ask, *pending)
                for ask, pending in self._pending.items()
                if ask in self._rows or _is_long(ask)
            }
        self._rows |= rows  # only after the commit: an interruption takes the rows back
        self._pending.clear()
        self._updating += self.seconds - before

    def _update(
        self, session: Session, ask: Ask, accuracies: list[float], attributes: Callable[[], Mapping[str, Any]]
    ) -> _Row:
        row = self._rows.get(ask)
        if row is None:
            row = self._begin(session, ask)
            write_attributes(session, row.trial_id, {**_identity(ask), **attributes()})
            self._covered[TrialState.RUNNING.name] += 1
            self.tallies[ask.cell].states["running"] += 1
            self._write_tallies(session, ask.cell)
        write_epochs(session, row.trial_id, accuracies, row.epochs)
        return replace(row, epochs=len(accuracies), updated=time.monotonic())

    def _begin(self, session: Session, ask: Ask) -> _Row:
        params = {name: value for name, value in ask.values.params().items() if name in self._space}
        return _Row(*begin_trial(session, self._study_id, ask.asked, params, self._space))

    def finish(
        self, ask: Ask, state: TrialState, accuracies: list[float], attributes: Mapping[str, Any], value: float | None
    ) -> int:
        """Write a trial that ended, whole, in one transaction; returns its number in the stored study.

        ``accuracies`` has the validation accuracy after each of its epochs; ``value`` is None if it failed.
        """
        attributes, tally = {**_identity(ask), **attributes}, self.tallies[ask.cell]
        row = self._rows.pop(ask, None)
        self._pending.pop(ask, None)
        with self._transaction() as session:
            if row is None:
                row = self._begin(session, ask)
            else:
                self._covered[TrialState.RUNNING.name] -= 1
                tally.states["running"] -= 1
            write_attributes(session, row.trial_id, attributes)
            write_epochs(session, row.trial_id, accuracies, row.epochs)
            if accuracies:
                title = f"{self.study.study_name}, trial {row.number}"
                attach_picture(session, row.trial_id, draw_curves(title, self._metric, accuracies, attributes, state))
            end_trial(session, row.trial_id, state, () if value is None else (value,))
            self._covered[state.name] += 1
            tally.add(state, row.number, value, attributes)
            self._write_tallies(session, ask.cell)
        return row.number


def _is_long(ask: Ask) -> bool:
    return (datetime.now() - ask.asked).total_seconds() >= LONG


def _identity(ask: Ask) -> dict[str, Any]:
    """The attributes by which a trial's history recognises it: its number there, and who chose its values."""
    return {"ask": ask.number, "origin": ask.origin}


def bury_abandoned(study: optuna.Study) -> None:
    """Mark as failed the trials that a killed run left running; their values will be asked for again.

    A trial that another program asked for is left to that program.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    abandoned = [trial for trial in running if "ask" in trial.user_attrs]
    if not abandoned:
        return
    why = {"reason": "its run was killed", "interrupted": True, "killed": True}
    metric = metric_of(study)
    with database_of(study).transaction(study_id_of(study)) as session:
        for trial in abandoned:
            trial_id = trial_id_of(trial)
            write_attributes(session, trial_id, why)
            end_trial(session, trial_id, TrialState.FAIL)
            if accuracies := [accuracy for _, accuracy in sorted(trial.intermediate_values.items())]:
                title = f"{study.study_name}, trial {trial.number}"
                attach_picture(session, trial_id, draw_curves(title, metric, accuracies, why, TrialState.FAIL))


def is_told(trial: FrozenTrial) -> bool:
    """Whether a stored trial belongs to its cell's history: it ended, and was not interrupted."""
    return trial.state.is_finished() and belongs_to_history(trial.user_attrs)
