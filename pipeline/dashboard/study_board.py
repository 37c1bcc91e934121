"""What optuna-dashboard reads of a stored study beside its trials: a note, and pictures of one's own.

It keeps both in pieces among the study's system attributes. Its own functions write them an attribute at a time, and
importing them takes a second.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.orm import Session

from pipeline.dashboard.note import renewed
from pipeline.store.long_text import cut
from pipeline.store.optuna_tables import SYSTEM_ATTRIBUTES as _ROWS

NOTE, VERSION, PICTURE = "dashboard:note_str:", "dashboard:note_ver", "dashboard:plot_data:"
TRIES = 3


def write_board(engine: Engine, study_id: int, note: str, pictures: Mapping[str, str]) -> bool:
    """Write a study's note and pictures in one transaction, if they are others than before; says whether they are.

    Args:
        engine: Of the database.
        study_id: The study's id in it.
        note: Its text, in Markdown; what someone wrote below is kept.
        pictures: Plotly figures as JSON, by id; others stay as they are.

    Raises:
        RuntimeError: Someone wrote into the note each time when it was tried.
    """
    for _ in range(TRIES):
        before = _read(engine, study_id)
        texts = {f"{PICTURE}{name}:": text for name, text in pictures.items()}
        texts[NOTE] = renewed(_text(before, NOTE), note)
        new = {prefix: text for prefix, text in texts.items() if text != _text(before, prefix)}
        if not new:
            return False
        with Session(engine) as session, session.begin():
            if NOTE in new and not _next_version(session, study_id, before.get(VERSION)):
                session.rollback()
                continue
            for prefix, text in new.items():
                _replace(session, study_id, prefix, text)
        return True
    raise RuntimeError("someone else writes into the note")


def _read(engine: Engine, study_id: int) -> dict[str, Any]:
    with Session(engine) as session:
        place = (_ROWS.c.study_id == study_id, _ROWS.c.key.startswith("dashboard:"))
        rows = session.execute(select(_ROWS.c.key, _ROWS.c.value_json).where(*place)).all()
    return {key: json.loads(value) for key, value in rows}


def _text(attributes: Mapping[str, Any], prefix: str) -> str:
    numbers = (key.removeprefix(prefix) for key in attributes if key.startswith(prefix))
    return "".join(attributes[f"{prefix}{number}"] for number in sorted(map(int, numbers)))


def _next_version(session: Session, study_id: int, before: int | None) -> bool:
    """Count a note's version up, unless someone else did since it was read."""
    if before is None:
        session.execute(insert(_ROWS).values(study_id=study_id, key=VERSION, value_json="1"))
        return True
    place = (
        _ROWS.c.study_id == study_id,
        _ROWS.c.key == VERSION,
        _ROWS.c.value_json == json.dumps(before),
    )
    counted = update(_ROWS).where(*place).values(value_json=json.dumps(before + 1))
    return session.connection().execute(counted).rowcount == 1


def _replace(session: Session, study_id: int, prefix: str, text: str) -> None:
    session.execute(delete(_ROWS).where(_ROWS.c.study_id == study_id, _ROWS.c.key.startswith(prefix, autoescape=True)))
    rows = [
        {"study_id": study_id, "key": f"{prefix}{number}", "value_json": json.dumps(piece)}
        for number, piece in enumerate(cut(text))
    ]
    session.execute(insert(_ROWS), rows)
