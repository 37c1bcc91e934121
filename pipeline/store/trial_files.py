"""Which file holds what a trial trained: its path and sha256 stand among the trial's attributes."""

import hashlib
import json
from pathlib import Path

import optuna
from optuna.storages._rdb import models
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from pipeline.store.trial_rows import engine_of, write_attributes


def file_sha256(path: Path) -> str:
    """What ``sha256sum`` says of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trial_key(identity: str, number: int) -> str:
    """What names a trial: the identity of its stored study, and its number there."""
    return f"{identity}/{number}"


def note_file(study: optuna.Study, number: int, kind: str, path: Path, sha256: str) -> None:
    """Say of a trial, finished as it is, that a file is its own; the trial whose it was before has none any more.

    Args:
        study: The stored study.
        number: That of the trial.
        kind: The name of the attribute, ``adapter`` or ``checkpoint``; its sha256 stands in ``<kind>_sha256``.
        path: Where the file lies; the study has one trial with it.
        sha256: That of the file.
    """
    trials, attributes = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    own, names = select(trials.c.trial_id).where(trials.c.study_id == study._study_id), (kind, f"{kind}_sha256")
    held = (attributes.c.key == kind, attributes.c.value_json == json.dumps(path.as_posix()))
    with Session(engine_of(study)) as session, session.begin():
        before = session.scalars(select(attributes.c.trial_id).where(*held, attributes.c.trial_id.in_(own))).all()
        session.execute(delete(attributes).where(attributes.c.trial_id.in_(before), attributes.c.key.in_(names)))
        trial_id = session.scalars(own.where(trials.c.number == number)).one()
        write_attributes(session, trial_id, dict(zip(names, (path.as_posix(), sha256), strict=True)))
