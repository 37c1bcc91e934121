"""The rows of a trial in Optuna's own tables, a table at a time, in the caller's transaction.

Optuna writes a trial an attribute and an epoch at a time, with three statements each: 23 ms for one of 20 epochs.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Engine, delete, insert, update
from sqlalchemy.orm import Session

from pipeline.errors import StorageError


def backend_of(study: optuna.Study) -> RDBStorage:
    """The database of a stored study, without the trials that the study remembers."""
    return cast(_CachedStorage, study._storage)._backend


def engine_of(study: optuna.Study) -> Engine:
    """What talks to the database of a stored study."""
    return backend_of(study).engine


def begin_trial(
    session: Session, study_id: int, asked: datetime, params: Mapping[str, Any], space: Mapping[str, BaseDistribution]
) -> tuple[int, int]:
    """Write a trial that runs; returns its id in the database and its number in the study."""
    models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)  # numbers are given one at a time
    trial: Any = models.TrialModel(study_id=study_id, state=TrialState.RUNNING, datetime_start=asked)
    session.add(trial)
    session.flush()
    trial.number = trial.count_past_trials(session)
    rows = [
        {
            "trial_id": trial.trial_id,
            "param_name": name,
            "param_value": space[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(space[name]),
        }
        for name, value in params.items()
    ]
    session.execute(insert(models.TrialParamModel.__table__), rows)
    return trial.trial_id, trial.number


def write_attributes(session: Session, trial_id: int, attributes: Mapping[str, Any]) -> None:
    """Write attributes of a trial, in the place of those of the same names."""
    table = models.TrialUserAttributeModel.__table__
    session.execute(delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(list(attributes))))
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    session.execute(insert(table), rows)


def write_system_attribute(session: Session, trial_id: int, key: str, value: Any) -> None:
    """Write an attribute of a trial that Optuna or its dashboard reads; a trial has none of that name yet."""
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}]
    session.execute(insert(models.TrialSystemAttributeModel.__table__), rows)


def write_epochs(session: Session, trial_id: int, accuracies: Sequence[float], known: int) -> None:
    """Write the accuracies of the epochs after the ``known`` first."""
    rows = []
    for epoch, accuracy in enumerate(accuracies[known:], known + 1):
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(accuracy)
        rows.append(
            {"trial_id": trial_id, "step": epoch, "intermediate_value": stored, "intermediate_value_type": kind}
        )
    if rows:
        session.execute(insert(models.TrialIntermediateValueModel.__table__), rows)


def end_trial(session: Session, trial_id: int, state: TrialState, values: Sequence[float] = ()) -> None:
    """Give a running trial its last state, and a value for each objective where it has any.

    Raises:
        StorageError: It runs no more; someone else ended it.
    """
    trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
    if trial.state != TrialState.RUNNING:
        raise StorageError(f"trial {trial.number} was ended by another program while it was trained here")
    trial.state, trial.datetime_complete = state, datetime.now()
    for objective, value in enumerate(values):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        session.add(models.TrialValueModel(trial_id=trial_id, objective=objective, value=stored, value_type=kind))


def write_study_attribute(session: Session, study_id: int, key: str, value: Any) -> None:
    """Write an attribute of a study, in the place of one of the same name."""
    table, text = models.StudyUserAttributeModel.__table__, json.dumps(value)
    place = (table.c.study_id == study_id, table.c.key == key)
    if session.connection().execute(update(table).where(*place).values(value_json=text)).rowcount == 0:
        session.execute(insert(table).values(study_id=study_id, key=key, value_json=text))
