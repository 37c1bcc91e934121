"""A study's note and pictures for optuna-dashboard, written into the tables of the stored study.

optuna-dashboard cuts both into pieces that it stores as system attributes. Its own functions take one transaction per
piece and a second to import.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from pipeline.dashboard.note import renewed
from pipeline.store.database import Database
from pipeline.store.optuna_tables import SYSTEM_ATTRIBUTES as ATTRIBUTES
from pipeline.store.stored_study import split

NOTE, VERSION, PICTURE = "dashboard:note_str:", "dashboard:note_ver", "dashboard:plot_data:"
TRIES = 3


def write_board(database: Database, study_id: int, note: str, pictures: Mapping[str, str]) -> None:
    """Write a study's note and pictures in one transaction if they have changed.

    What a user wrote below the note stays, and so do pictures other than ``pictures``: plotly figures as JSON, by id.

    Raises:
        StorageError: Another run has taken over the study.
        RuntimeError: A user changed the note during each of ``TRIES`` tries.
    """
    for _ in range(TRIES):
        before = _read(database, study_id)
        texts = {f"{PICTURE}{name}:": text for name, text in pictures.items()}
        texts[NOTE] = renewed(_text(before, NOTE), note)
        new = {prefix: text for prefix, text in texts.items() if text != _text(before, prefix)}
        if not new:
            return
        with database.transaction(study_id) as session:
            if NOTE in new and not _next_version(session, study_id, before.get(VERSION)):
                session.rollback()
                continue
            for prefix, text in new.items():
                _replace(session, study_id, prefix, text)
        return
    raise RuntimeError("a user was editing the note")


def _read(database: Database, study_id: int) -> dict[str, Any]:
    with Session(database.engine) as session:
        ours = (ATTRIBUTES.c.study_id == study_id, ATTRIBUTES.c.key.startswith("dashboard:"))
        rows = session.execute(select(ATTRIBUTES.c.key, ATTRIBUTES.c.value_json).where(*ours)).all()
    return {key: json.loads(value) for key, value in rows}


def _text(attributes: Mapping[str, Any], prefix: str) -> str:
    numbers = (key.removeprefix(prefix) for key in attributes if key.startswith(prefix))
    return "".join(attributes[f"{prefix}{number}"] for number in sorted(map(int, numbers)))


def _next_version(session: Session, study_id: int, before: int | None) -> bool:
    """Increase the version of a note; False if someone else has done so since it was read."""
    if before is None:
        session.execute(insert(ATTRIBUTES).values(study_id=study_id, key=VERSION, value_json="1"))
        return True
    row = (ATTRIBUTES.c.study_id == study_id, ATTRIBUTES.c.key == VERSION)
    unchanged = ATTRIBUTES.c.value_json == json.dumps(before)
    increase = update(ATTRIBUTES).where(*row, unchanged).values(value_json=json.dumps(before + 1))
    return session.connection().execute(increase).rowcount == 1


def _replace(session: Session, study_id: int, prefix: str, text: str) -> None:
    pieces = ATTRIBUTES.c.key.startswith(prefix, autoescape=True)
    session.execute(delete(ATTRIBUTES).where(ATTRIBUTES.c.study_id == study_id, pieces))
    rows = [
        {"study_id": study_id, "key": f"{prefix}{number}", "value_json": json.dumps(chunk)}
        for number, chunk in enumerate(split(text))
    ]
    session.execute(insert(ATTRIBUTES), rows)
