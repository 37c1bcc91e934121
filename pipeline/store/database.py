"""The stored studies: one Optuna study for each combination, named ``<study>/<combination>``."""

import fcntl
import logging
import os
import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url

from pipeline.config.study_file import upgraded
from pipeline.errors import NothingUsableError, SpecError, StorageError
from pipeline.locks import database_lock, exclusive

METRIC = "validation accuracy"
"""What trials are judged by, where the task's metric is accuracy."""
LOCK_WAIT = 30
"""Seconds to wait while another program holds the database."""


SECRET = ("password", "passwd", "sslpassword", "passfile")
"""What drivers take of a URL's query that nobody is to read."""


def without_password(url: str) -> str:
    """A database URL that may be printed, logged and stored."""
    parsed = make_url(url)
    hidden = {key: "hidden" for key in parsed.query if key.lower() in SECRET}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Say of a database that fails which one it is, and what it said; exit code 4."""
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _failed(url, error) from error


def _failed(url: str, error: Exception) -> StorageError:
    said = str(error.__cause__ or error).partition("\n")[0]
    return StorageError(f"the database {without_password(url)} failed: {said}; nothing in it was removed")


def open_storage(url: str, *, create: bool = True, wait: float = LOCK_WAIT) -> RDBStorage:
    """Open or create the database of an SQLAlchemy URL; SQLite gets a write-ahead log, so that readers never wait.

    Args:
        url: Of the database.
        create: Whether to make an SQLite file that is not there.
        wait: Seconds to wait for another program that writes to an SQLite file.

    Raises:
        StorageError: The URL is none, or what it names is no database, another version's, or out of reach.
        NothingUsableError: The file is not there, and ``create`` is false.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        parsed = make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise StorageError(
            "the database URL is not one that SQLAlchemy reads; give e.g. sqlite:///storage/studies.db or "
            "postgresql+psycopg://user@host/name"
        ) from None
    if not create and parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise NothingUsableError(f"{parsed.database} is not there, so nothing is stored; `restora run STUDY` makes it")
    try:
        with storage_errors(url):
            return (
                _open_sqlite(url, parsed.database, wait) if parsed.get_backend_name() == "sqlite" else RDBStorage(url)
            )
    except (RuntimeError, OSError, ImportError) as error:  # another version's tables, no access, no driver
        raise _failed(url, error) from error


def _open_sqlite(url: str, database: str | None, wait: float) -> RDBStorage:
    with ExitStack() as alone:
        if database and database != ":memory:":
            _refuse_other_files(Path(database))
            alone.enter_context(_one_at_a_time(Path(database)))
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": wait}})
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()
        return storage


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Look for the tables, and make them, before any other process does; SQLite's own locks are of another kind."""
    handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _refuse_other_files(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    with path.open("rb") as file:
        magic = file.read(16)
    if magic not in (b"", b"SQLite format 3\x00"):
        raise StorageError(f"{path} is not an SQLite database; it was left alone; name another by --storage")


def _write_ahead(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


@contextmanager
def alone(storage: RDBStorage, study: str) -> Iterator[None]:
    """Hold a study in its database, against runs from other folders and machines, as long as this process lives.

    Raises:
        StorageError: Another run holds it.
    """
    url = storage.engine.url
    if url.get_backend_name() == "sqlite":
        with ExitStack() as held:
            if url.database and url.database != ":memory:":
                held.enter_context(exclusive(database_lock(url.database, study), f"study '{study}'"))
            yield
    elif url.get_backend_name() == "postgresql":
        with storage.engine.connect() as connection:
            key = sqlalchemy.func.hashtext(f"restora/{study}")
            if not connection.scalar(sqlalchemy.select(sqlalchemy.func.pg_try_advisory_lock(key))):
                raise StorageError(f"study '{study}' is being run on this database; wait for it, or stop it")
            connection.commit()  # the lock is the connection's, and outlives the transaction
            try:
                yield
            finally:  # the pool keeps the connection
                connection.scalar(sqlalchemy.select(sqlalchemy.func.pg_advisory_unlock(key)))
    else:
        yield


def study_name(study: str, combination: str) -> str:
    return f"{study}/{combination}"


def metric_of(study: optuna.Study) -> str:
    """What the trials of a stored study are judged by."""
    return (study.metric_names or [METRIC])[0]


def create_or_resume(
    storage: RDBStorage, name: str, pinned: dict[str, Any], hashes: dict[str, str], facts: dict[str, Any]
) -> optuna.Study:
    """The stored study of a combination.

    Args:
        storage: The database.
        name: ``<study>/<combination>``.
        pinned: What may not change while the study grows.
        hashes: sha256 of weights, data and split; they may not change either.
        facts: Whatever else describes the study; the newest is kept.

    Raises:
        SpecError: The study is there and was searched otherwise; the message shows the difference.
    """
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([f"validation {facts.get('task', {}).get('metric', 'accuracy')}"])
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler())
    if study.direction != optuna.study.StudyDirection.MAXIMIZE:
        raise SpecError(f"study '{name}' is stored with direction minimize, now maximize; give the study another name")
    attributes = study.user_attrs
    refuse_differences(name, attributes, pinned, hashes)
    before, now = attributes.get("targets"), facts.get("targets")
    if before is not None and before != now:
        raise SpecError(
            f"study '{name}' was begun with {before} layers as targets, and has {now} now, for this version reaches "
            f"others (projections of attention); give the study another name"
        )
    identity = {"id": attributes.get("id") or uuid.uuid4().hex}
    for key, value in {"pinned": pinned, "hashes": hashes, **identity, **facts}.items():
        if attributes.get(key) != value:
            study.set_user_attr(key, value)
    return study


def refuse_differences(
    name: str, attributes: Mapping[str, Any], pinned: dict[str, Any], hashes: dict[str, str]
) -> None:
    """Refuse to go on with a stored study that was searched otherwise.

    Raises:
        SpecError: Its space, direction, seed, weights or data differ; the message shows where.
    """
    stored = {"pinned": upgraded(attributes.get("pinned", pinned)), "hashes": attributes.get("hashes", hashes)}
    lines = [
        f"  {difference}"
        for key, now in {"pinned": pinned, "hashes": hashes}.items()
        for difference in _differences(stored[key], now)
    ]
    if lines:
        raise SpecError(
            f"study '{name}' was searched otherwise, so its trials cannot be compared with new ones:\n"
            + "\n".join(lines)
            + "\nrestore what it was, or give the study file another name"
        )


def _differences(stored: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in {**stored, **now}:
            yield from _differences(stored.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif stored != now:
        yield f"{path}: stored {stored}, now {now}"
