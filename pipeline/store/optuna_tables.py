"""Optuna's tables, read and written directly, in the caller's transaction.

Optuna itself writes one attribute and one epoch per transaction, which takes 23 ms for a trial of 20 epochs. This file
alone imports Optuna's private modules; its functions are what a new version of Optuna may break.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from pipeline.errors import StorageError

STUDIES, DIRECTIONS = models.StudyModel.__table__, models.StudyDirectionModel.__table__
USER_ATTRIBUTES = models.StudyUserAttributeModel.__table__
SYSTEM_ATTRIBUTES = models.StudySystemAttributeModel.__table__
TRIALS, TRIAL_ATTRIBUTES = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__


def backend_of(study: optuna.Study) -> RDBStorage:
    """The database of a stored study, without the cache of trials that Optuna puts before it."""
    return cast(_CachedStorage, study._storage)._backend


def study_id_of(study: optuna.Study) -> int:
    return study._study_id


def trial_id_of(trial: FrozenTrial) -> int:
    """The id of a trial in the database, which is not its number in the study."""
    return trial._trial_id


# Studies


def insert_study(session: Session, name: str, metric: str) -> int:
    """Create a study that maximises one metric; returns its id."""
    session.execute(insert(STUDIES).values(study_name=name))
    study_id: int = session.scalars(select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)).one()
    session.execute(insert(DIRECTIONS).values(study_id=study_id, direction=StudyDirection.MAXIMIZE, objective=0))
    write_study_attribute(session, study_id, _SYSTEM_ATTR_METRIC_NAMES, [metric], SYSTEM_ATTRIBUTES)
    return study_id


def write_study_attribute(session: Session, study_id: int, key: str, value: Any, table: Any = USER_ATTRIBUTES) -> None:
    """Write an attribute of a study, replacing one of the same name."""
    text, row = json.dumps(value), (table.c.study_id == study_id, table.c.key == key)
    if session.connection().execute(update(table).where(*row).values(value_json=text)).rowcount == 0:
        session.execute(insert(table).values(study_id=study_id, key=key, value_json=text))


# Trials


def begin_trial(
    session: Session, study_id: int, asked: datetime, params: Mapping[str, Any], space: Mapping[str, BaseDistribution]
) -> tuple[int, int]:
    """Write a running trial; returns its id in the database and its number in the study."""
    # Locks the study, so that two writers cannot give the same number.
    models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
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
    """Write user attributes of a trial, replacing those of the same names."""
    table = TRIAL_ATTRIBUTES
    session.execute(delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(list(attributes))))
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    session.execute(insert(table), rows)


def write_artifact(session: Session, trial_id: int, artifact_id: str, meta: Mapping[str, Any]) -> None:
    """Attach an artifact to a trial; Optuna keeps its description as JSON within a JSON string."""
    row = {"trial_id": trial_id, "key": f"{ARTIFACTS_ATTR_PREFIX}{artifact_id}"}
    text = json.dumps(json.dumps(dict(meta)))
    session.execute(insert(models.TrialSystemAttributeModel.__table__).values(**row, value_json=text))


def write_epochs(session: Session, trial_id: int, accuracies: Sequence[float], known: int) -> None:
    """Write the accuracies of all epochs after the first ``known``."""
    rows = []
    for epoch, accuracy in enumerate(accuracies[known:], known + 1):
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(accuracy)
        rows.append(
            {"trial_id": trial_id, "step": epoch, "intermediate_value": stored, "intermediate_value_type": kind}
        )
    if rows:
        session.execute(insert(models.TrialIntermediateValueModel.__table__), rows)


def end_trial(
    session: Session, trial_id: int, state: TrialState, values: Sequence[float] = (), when: datetime | None = None
) -> None:
    """Give a running trial its final state, one value per objective where it has values, and its end, by default now.

    Raises:
        StorageError: The trial is not running, because another program ended it.
    """
    trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
    if trial.state != TrialState.RUNNING:
        raise StorageError(f"trial {trial.number} was ended by another program while it was trained here")
    trial.state, trial.datetime_complete = state, when or datetime.now()
    for objective, value in enumerate(values):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        session.add(models.TrialValueModel(trial_id=trial_id, objective=objective, value=stored, value_type=kind))


def withdraw_trials(session: Session, trial_ids: Sequence[int]) -> None:
    """Turn complete trials into pruned ones without values."""
    values = models.TrialValueModel.__table__
    session.execute(update(TRIALS).where(TRIALS.c.trial_id.in_(trial_ids)).values(state=TrialState.PRUNED))
    session.execute(delete(values).where(values.c.trial_id.in_(trial_ids)))


def write_distributions(session: Session, study_id: int, space: Mapping[str, BaseDistribution]) -> None:
    """Give all trials of a study the same distributions, where a study file has grown."""
    params = models.TrialParamModel.__table__
    in_study = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    for name, distribution in space.items():
        text = distribution_to_json(distribution)
        other = (params.c.param_name == name, params.c.trial_id.in_(in_study), params.c.distribution_json != text)
        session.execute(update(params).where(*other).values(distribution_json=text))


def move_attributes(session: Session, study_id: int, number: int, attributes: Mapping[str, Any]) -> None:
    """Write attributes of trial ``number``, and remove them from the trial that had the same first one until now."""
    name, value = next(iter(attributes.items()))
    in_study = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    table = TRIAL_ATTRIBUTES
    same = (table.c.key == name, table.c.value_json == json.dumps(value), table.c.trial_id.in_(in_study))
    before = session.scalars(select(table.c.trial_id).where(*same)).all()
    session.execute(delete(table).where(table.c.trial_id.in_(before), table.c.key.in_(list(attributes))))
    write_attributes(session, session.scalars(in_study.where(TRIALS.c.number == number)).one(), attributes)
