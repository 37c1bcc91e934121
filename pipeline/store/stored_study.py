"""The stored studies: one Optuna study per combination, named ``<study>/<combination>``."""

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection

from pipeline.config.study_file import upgraded
from pipeline.errors import SpecError
from pipeline.store.database import Database, database_of
from pipeline.store.optuna_tables import insert_study, move_attributes, study_id_of, write_study_attribute

METRIC = "validation accuracy"
"""The name of a trial's value where the task's metric is accuracy."""
REQUIRED = ("pinned", "hashes", "id", "budget")
"""Attributes without which a stored study cannot be read. A killed run of version 0.1 may have left a study without."""
LONGEST = 1800
"""Characters that an attribute may take as JSON, where a line break takes two, a letter outside ASCII six or more."""


def study_name(study: str, combination: str) -> str:
    return f"{study}/{combination}"


def metric_of(study: optuna.Study) -> str:
    """The name of the value that the trials of a stored study maximise."""
    return (study.metric_names or [METRIC])[0]


def trial_key(identity: str, number: int) -> str:
    """Identifies a trial among all databases: the ``id`` attribute of its stored study, and its number in it."""
    return f"{identity}/{number}"


def create_or_resume(
    storage: Database, name: str, pinned: dict[str, Any], hashes: dict[str, str], facts: dict[str, Any]
) -> optuna.Study:
    """Create or resume the stored study of a combination in one transaction, and claim it for this run.

    ``pinned`` settings and the ``hashes`` of weights, data and split may not change while the study grows. ``facts``,
    everything else that describes it, replace what is stored.

    Raises:
        SpecError: The stored study was searched with other settings, and the message lists the differences; or another
            program created it.
    """
    study_id = storage.names().get(name)
    stored = refuse_to_resume(storage, name, pinned, hashes, facts)
    with storage.transaction(study_id) as session:
        if study_id is None:
            study_id = insert_study(session, name, f"validation {facts.get('task', {}).get('metric', 'accuracy')}")
        new = {"pinned": pinned, "hashes": hashes, "id": stored.get("id") or uuid.uuid4().hex, **facts}
        for key, value in new.items():
            if key not in stored or stored[key] != value:
                write_study_attribute(session, study_id, key, value)
        storage.claim(session, study_id)
    return optuna.load_study(storage=storage, study_name=name, sampler=RandomSampler())


def refuse_to_resume(
    storage: Database, name: str, pinned: dict[str, Any], hashes: dict[str, str], facts: dict[str, Any]
) -> dict[str, Any]:
    """Refuse to resume a stored study that differs; returns its attributes, none if it is not stored.

    Hashes that are not known yet, such as those of weights that are still to be trained, are not compared.
    """
    study_id = storage.names().get(name)
    stored = {} if study_id is None else _stored_attributes(storage, study_id, name)
    if set(REQUIRED) <= stored.keys():  # otherwise it is new, or a killed run of version 0.1 left it
        refuse_differences(name, stored, pinned, {**stored["hashes"], **hashes})
        before, now = stored.get("targets"), facts.get("targets")
        if before is not None and before != now:
            raise SpecError(
                f"study '{name}' began with {before} target layers and now has {now}, because this version also finds "
                f"the projections of attention; give the study another name"
            )
    return stored


def _stored_attributes(storage: Database, study_id: int, name: str) -> dict[str, Any]:
    """The user attributes of a stored study, which is refused if another program created it."""
    stored, directions = storage.get_study_user_attrs(study_id), storage.get_study_directions(study_id)
    if directions != [StudyDirection.MAXIMIZE]:
        known = " and ".join(direction.name.lower() for direction in directions)
        raise SpecError(f"study '{name}' is stored with direction {known}, now maximize; give the study another name")
    foreign = stored and "pinned" not in stored
    if foreign or (not set(REQUIRED) <= stored.keys() and storage.get_n_trials(study_id)):
        raise SpecError(
            f"the database holds a study '{name}' that another program created; give the study file another name, "
            f"or name another database by --storage"
        )
    return stored


def refuse_differences(
    name: str, attributes: Mapping[str, Any], pinned: dict[str, Any], hashes: dict[str, str]
) -> None:
    """Refuse to resume a stored study whose settings differ, with a ``SpecError`` that lists each difference."""
    differences = [
        *_differences(upgraded(attributes.get("pinned", pinned)), pinned),
        *_differences(attributes.get("hashes", hashes), hashes),
    ]
    if differences:
        raise SpecError(
            f"study '{name}' was searched with other settings, so its trials cannot be compared with new ones:\n  "
            + "\n  ".join(differences)
            + "\nrestore these settings, or give the study file another name"
        )


def _differences(stored: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in {**stored, **now}:
            yield from _differences(stored.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif stored != now:
        yield f"{path}: stored {stored}, now {now}"


def note_file(study: optuna.Study, number: int, kind: str, path: Path, sha256: str) -> None:
    """Write into a finished trial which file holds what it trained; the file's former trial loses that note.

    ``kind`` is the attribute's name, ``adapter`` or ``checkpoint``; the sha256 is in ``<kind>_sha256``.
    """
    study_id = study_id_of(study)
    with database_of(study).transaction(study_id) as session:
        move_attributes(session, study_id, number, {kind: path.as_posix(), f"{kind}_sha256": sha256})


def write_long(study: optuna.Study, key: str, text: str) -> None:
    """Write a text of any length as attributes of a stored study, in one transaction; ``joined`` reads it."""
    study_id = study_id_of(study)
    with database_of(study).transaction(study_id) as session:
        for name, value in in_chunks(key, text).items():
            write_study_attribute(session, study_id, name, value)


def in_chunks(key: str, text: str) -> dict[str, Any]:
    """The attributes that store a text: ``key`` holds the number of chunks, ``key.0`` the first chunk.

    >>> in_chunks("file", "abc")
    {'file.0': 'abc', 'file': 1}
    """
    chunks = list(split(text))
    return {f"{key}.{number}": chunk for number, chunk in enumerate(chunks)} | {key: len(chunks)}


def split(text: str) -> Iterator[str]:
    """The chunks of a text, none of them longer than ``LONGEST``."""
    while text:
        end = LONGEST
        while len(json.dumps(text[:end])) > LONGEST:
            end = 9 * end // 10
        yield text[:end]
        text = text[end:]


def joined(attributes: Mapping[str, Any], key: str) -> str | None:
    """The text that was stored ``in_chunks``; None if the study has none, as those of versions before 0.1."""
    if key not in attributes:
        return None
    return "".join(attributes[f"{key}.{number}"] for number in range(attributes[key]))
