"""The stored studies: one Optuna study per combination, named ``<study>/<combination>``."""

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
from pipeline.store.optuna_tables import (
    insert_study,
    move_attributes,
    read_study_attributes,
    study_directions,
    study_id_of,
    write_study_attribute,
)

METRIC = "validation accuracy"
"""The name of a trial's value where the task's metric is accuracy."""
REQUIRED = ("pinned", "hashes", "id", "budget")
"""Attributes without which a stored study cannot be read. A killed run of version 0.1 may have left a study without."""


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

    Args:
        storage: The database.
        name: ``<study>/<combination>``.
        pinned: Settings that may not change while the study grows.
        hashes: sha256 of weights, data and split, which may not change either.
        facts: Everything else that describes the study; replaces what is stored.

    Raises:
        SpecError: The stored study was searched with other settings, and the message lists the differences; or another
            program created it.
    """
    study_id = storage.names().get(name)
    has_trials = study_id is not None and storage.get_n_trials(study_id) > 0
    with storage.transaction(study_id) as session:
        if study_id is None:
            study_id = insert_study(session, name, f"validation {facts.get('task', {}).get('metric', 'accuracy')}")
        stored = read_study_attributes(session, study_id)
        _refuse_direction(name, study_directions(session, study_id))
        if set(REQUIRED) <= stored.keys():
            refuse_differences(name, stored, pinned, hashes)
            _refuse_other_targets(name, stored.get("targets"), facts.get("targets"))
        elif has_trials or (stored and "pinned" not in stored):  # otherwise a killed run of version 0.1 left it
            raise SpecError(
                f"the database holds a study '{name}' that another program created; give the study file another name, "
                f"or name another database by --storage"
            )
        new = {"pinned": pinned, "hashes": hashes, "id": stored.get("id") or uuid.uuid4().hex, **facts}
        for key, value in new.items():
            if key not in stored or stored[key] != value:
                write_study_attribute(session, study_id, key, value)
        storage.claim(session, study_id)
    return optuna.load_study(storage=storage, study_name=name, sampler=RandomSampler())


def _refuse_direction(name: str, directions: list[StudyDirection]) -> None:
    if directions != [StudyDirection.MAXIMIZE]:
        stored = " and ".join(direction.name.lower() for direction in directions)
        raise SpecError(f"study '{name}' is stored with direction {stored}, now maximize; give the study another name")


def _refuse_other_targets(name: str, before: int | None, now: int | None) -> None:
    if before is not None and before != now:
        raise SpecError(
            f"study '{name}' began with {before} target layers and now has {now}, because this version also finds the "
            f"projections of attention; give the study another name"
        )


def refuse_differences(
    name: str, attributes: Mapping[str, Any], pinned: dict[str, Any], hashes: dict[str, str]
) -> None:
    """Refuse to resume a stored study whose settings differ.

    Raises:
        SpecError: Its space, seed, weights or data differ; the message lists each difference.
    """
    stored = {"pinned": upgraded(attributes.get("pinned", pinned)), "hashes": attributes.get("hashes", hashes)}
    lines = [
        f"  {difference}"
        for key, now in {"pinned": pinned, "hashes": hashes}.items()
        for difference in _differences(stored[key], now)
    ]
    if lines:
        raise SpecError(
            f"study '{name}' was searched with other settings, so its trials cannot be compared with new ones:\n"
            + "\n".join(lines)
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

    Args:
        study: The stored study.
        number: The trial's number.
        kind: The attribute's name, ``adapter`` or ``checkpoint``; the sha256 is in ``<kind>_sha256``.
        path: The file. One trial of the study at most has it.
        sha256: The file's sha256.
    """
    study_id = study_id_of(study)
    with database_of(study).transaction(study_id) as session:
        move_attributes(session, study_id, number, {kind: path.as_posix(), f"{kind}_sha256": sha256})
