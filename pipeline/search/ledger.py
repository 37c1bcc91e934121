"""What is written to the stored study while it is searched; the coordinator is its only writer."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.search.history import Ask

LONG = 10.0
"""Seconds after which a trial is shown as running; one that ends sooner enters whole, in one transaction."""
EVERY = 1.0
"""Seconds between two reports of a running trial: each costs the database several milliseconds."""


class Ledger:
    """Writes trials into a stored study.

    Args:
        study: The stored study.
        space: Its full space, rank and init among it.
    """

    def __init__(self, study: optuna.Study, space: Mapping[str, BaseDistribution]) -> None:
        self.study, self._space = study, dict(space)
        self._rows: dict[Ask, int] = {}
        self._shown: dict[Ask, tuple[float, int]] = {}

    def progress(self, ask: Ask, accuracies: list[float]) -> None:
        """Show a long trial as running, its epochs at most once a second."""
        if ask not in self._rows:
            if (datetime.now() - ask.asked).total_seconds() >= LONG:
                self._rows[ask] = self._add(ask, TrialState.RUNNING, accuracies, _place(ask), None)
                self._shown[ask] = time.monotonic(), len(accuracies)
        elif time.monotonic() - self._shown[ask][0] >= EVERY:
            self._report(ask, accuracies)

    def _report(self, ask: Ask, accuracies: list[float]) -> None:
        for epoch in range(self._shown[ask][1], len(accuracies)):
            self.study._storage.set_trial_intermediate_value(self._rows[ask], epoch + 1, accuracies[epoch])
        self._shown[ask] = time.monotonic(), len(accuracies)

    def finish(
        self, ask: Ask, state: TrialState, accuracies: list[float], attributes: Mapping[str, Any], value: float | None
    ) -> int:
        """Write a finished trial; returns its number in the stored study."""
        attributes = {**_place(ask), **attributes}
        if ask not in self._rows:
            trial_id = self._add(ask, state, accuracies, attributes, value)
        else:
            self._report(ask, accuracies)
            trial_id, storage = self._rows.pop(ask), self.study._storage
            for key, attribute in attributes.items():
                storage.set_trial_user_attr(trial_id, key, attribute)
            storage.set_trial_state_values(trial_id, state, None if value is None else [value])
        return self.study._storage.get_trial(trial_id).number

    def _add(
        self, ask: Ask, state: TrialState, accuracies: list[float], attributes: Mapping[str, Any], value: float | None
    ) -> int:
        trial = create_trial(
            state=state,
            value=value,
            params=ask.values.params(),
            distributions=self._space,
            user_attrs=dict(attributes),
            intermediate_values={epoch + 1: accuracy for epoch, accuracy in enumerate(accuracies)},
        )
        trial.datetime_start = ask.asked
        return self.study._storage.create_new_trial(self.study._study_id, template_trial=trial)


def _place(ask: Ask) -> dict[str, Any]:
    """What a history needs to find the trial again."""
    return {"ask": ask.number, "origin": ask.origin}


def bury_abandoned(study: optuna.Study) -> None:
    """Mark as failed the trials that a killed run left running; their values will be asked for again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        for key, value in {"reason": "its run was killed", "interrupted": True, "killed": True}.items():
            study._storage.set_trial_user_attr(trial._trial_id, key, value)
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def is_told(trial: FrozenTrial) -> bool:
    """Whether a stored trial belongs to its cell's history: it ended, and not by an interruption."""
    return trial.state.is_finished() and "interrupted" not in trial.user_attrs and "ask" in trial.user_attrs


def was_killed(trial: FrozenTrial) -> bool:
    """Whether the run was killed while it trained this trial."""
    return "killed" in trial.user_attrs
