"""What is written to the stored study while it is searched; the coordinator is its only writer."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pipeline.space import Ask, Cell
from pipeline.store.database import database_of
from pipeline.store.optuna_tables import (
    begin_trial,
    end_trial,
    study_id_of,
    write_attributes,
    write_epochs,
    write_study_attribute,
)
from pipeline.store.stored_study import metric_of
from pipeline.store.summary import COVERED, summary_key
from pipeline.store.tally import tally, tells
from pipeline.store.trial_pictures import attach_curves

LONG = 10.0
"""Seconds after which a trial is shown as running; one that ends sooner enters whole."""
EVERY = 1.0
"""Seconds between two reports of a running trial."""
SHARE = 0.02
"""Part of the time since the search began that showing trials as they run may take."""
AT_FIRST = 0.2
"""Seconds that showing them may take beside that, so that a search that has just begun shows them too."""
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class _Shown:
    """The row of a trial that is shown as running."""

    trial_id: int
    number: int
    epochs: int = 0
    when: float = 0.0


class Ledger:
    """Writes trials into a stored study, and with each the summary that ``status`` reads.

    Args:
        study: The stored study.
        space: Its full space, rank and init among it.
    """

    def __init__(self, study: optuna.Study, space: Mapping[str, BaseDistribution]) -> None:
        self.study, self._space = study, dict(space)
        self._database, self._study_id = database_of(study), study_id_of(study)
        self._name, self._metric = study.study_name, metric_of(study)
        self.seconds = 0.0
        """Seconds spent in the database so far."""
        self._showing, self._began = 0.0, time.monotonic()
        self._shown: dict[Ask, _Shown] = {}
        self._news: dict[Ask, tuple[list[float], Mapping[str, Any]]] = {}
        trials = study.get_trials(deepcopy=False)
        self._covered = Counter(trial.state.name for trial in trials)
        self._tallies = tally(trials)
        if study.user_attrs.get(COVERED) != self._covered:
            with self._transaction() as session:
                self._sum_up(session, *self._tallies)

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        start = time.perf_counter()
        try:
            with self._database.transaction(self._study_id) as session:
                yield session
        finally:
            self.seconds += time.perf_counter() - start

    def _sum_up(self, session: Session, *cells: Cell) -> None:
        for cell in cells:
            write_study_attribute(session, self._study_id, summary_key(cell), self._tallies[cell].summary())
        covered = {state: count for state, count in self._covered.items() if count}
        write_study_attribute(session, self._study_id, COVERED, covered)

    def progress(self, ask: Ask, accuracies: list[float], attributes: Mapping[str, Any] = NONE) -> None:
        """Show a long trial as running, its epochs about once a second, as far as that takes next to no time.

        What was not shown of any trial is shown together with the next that is.
        """
        now, shown = time.monotonic(), self._shown.get(ask)
        self._news[ask] = accuracies, attributes
        due = _is_long(ask) if shown is None else now - shown.when >= EVERY
        if not due or self._showing > AT_FIRST + SHARE * (now - self._began):
            return
        before = self.seconds
        with self._transaction() as session:
            rows = {
                each: self._show(session, each, *news)
                for each, news in self._news.items()
                if each in self._shown or _is_long(each)
            }
        self._shown |= rows  # only now: what an interruption took back is not shown
        self._news.clear()
        self._showing += self.seconds - before

    def _show(self, session: Session, ask: Ask, accuracies: list[float], attributes: Mapping[str, Any]) -> _Shown:
        shown = self._shown.get(ask)
        if shown is None:
            shown = self._begin(session, ask)
            write_attributes(session, shown.trial_id, {**_place(ask), **attributes})
            self._covered[TrialState.RUNNING.name] += 1
            self._tallies[ask.cell].seen["running"] += 1
            self._sum_up(session, ask.cell)
        write_epochs(session, shown.trial_id, accuracies, shown.epochs)
        return replace(shown, epochs=len(accuracies), when=time.monotonic())

    def _begin(self, session: Session, ask: Ask) -> _Shown:
        params = {name: value for name, value in ask.values.params().items() if name in self._space}
        return _Shown(*begin_trial(session, self._study_id, ask.asked, params, self._space))

    def finish(
        self, ask: Ask, state: TrialState, accuracies: list[float], attributes: Mapping[str, Any], value: float | None
    ) -> int:
        """Write a finished trial, whole, in one transaction; returns its number in the stored study."""
        attributes, own = {**_place(ask), **attributes}, self._tallies[ask.cell]
        shown = self._shown.pop(ask, None)
        self._news.pop(ask, None)
        with self._transaction() as session:
            if shown is None:
                shown = self._begin(session, ask)
            else:
                self._covered[TrialState.RUNNING.name] -= 1
                own.seen["running"] -= 1
            write_attributes(session, shown.trial_id, attributes)
            write_epochs(session, shown.trial_id, accuracies, shown.epochs)
            name = f"{self._name}, trial {shown.number}"
            attach_curves(session, shown.trial_id, name, self._metric, state, accuracies, attributes)
            end_trial(session, shown.trial_id, state, () if value is None else (value,))
            self._covered[state.name] += 1
            own.add(state, shown.number, value, attributes)
            self._sum_up(session, ask.cell)
        return shown.number


def _is_long(ask: Ask) -> bool:
    return (datetime.now() - ask.asked).total_seconds() >= LONG


def _place(ask: Ask) -> dict[str, Any]:
    """What a history needs to find the trial again."""
    return {"ask": ask.number, "origin": ask.origin}


def bury_abandoned(study: optuna.Study) -> None:
    """Mark as failed the trials that a killed run left running; their values will be asked for again.

    A trial that someone else asked for, outside a run, is theirs to end.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    abandoned = [trial for trial in running if "ask" in trial.user_attrs]
    if not abandoned:
        return
    why = {"reason": "its run was killed", "interrupted": True, "killed": True}
    name, metric = study.study_name, metric_of(study)
    with database_of(study).transaction(study_id_of(study)) as session:
        for trial in abandoned:
            write_attributes(session, trial._trial_id, why)
            end_trial(session, trial._trial_id, TrialState.FAIL)
            epochs = [accuracy for _, accuracy in sorted(trial.intermediate_values.items())]
            title = f"{name}, trial {trial.number}"
            attach_curves(session, trial._trial_id, title, metric, TrialState.FAIL, epochs, why)


def is_told(trial: FrozenTrial) -> bool:
    """Whether a stored trial belongs to its cell's history: it ended, and not by an interruption."""
    return trial.state.is_finished() and tells(trial.user_attrs)


def was_killed(trial: FrozenTrial) -> bool:
    """Whether the run was killed while it trained this trial."""
    return "killed" in trial.user_attrs
