"""Opening the database of the stored studies: SQLite, PostgreSQL, or whatever else SQLAlchemy reaches."""

import json
import logging
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session

from pipeline.errors import NothingUsableError, StorageError
from pipeline.locks import database_lock, exclusive
from pipeline.store.optuna_tables import STUDIES, SYSTEM_ATTRIBUTES, backend_of, write_study_attribute
from pipeline.store.server import advisory_lock, only_run_on_server, wait_for_restarts
from pipeline.store.sqlite_database import created, reader, sqlite_file, write_ahead

RUN = "restora:run"
"""The system attribute of a study that identifies the run which writes to it; older versions wrote none."""
LOCK_WAIT = 30
"""Seconds to wait while another program writes to an SQLite file."""
SECRET = ("password", "passwd", "sslpassword", "passfile")
"""Keys of a URL's query whose values are secret."""


class Database(RDBStorage):
    """Optuna's storage, with transactions that fail once another run has taken over the study.

    A run takes a study over by ``claim``. From then on every transaction on that study, of this and of any other
    ``Database``, first checks that its own claim is the latest. A ``Database`` that never claimed the study writes
    without this check: ``export`` notes files of finished trials while a run goes on.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._run = uuid.uuid4().hex
        self._claims: dict[int, str] = {}

    def claim(self, session: Session, study_id: int) -> None:
        """Take a study over, in the transaction of the caller."""
        write_study_attribute(session, study_id, RUN, self._run, SYSTEM_ATTRIBUTES)
        self._claims[study_id] = self._run

    def follow(self, study_id: int) -> None:
        """Join the run that has claimed a study, so that transactions here fail as its own do once it is taken over."""
        if study_id not in self._claims:
            with Session(self.engine) as session:
                run = session.scalar(select(SYSTEM_ATTRIBUTES.c.value_json).filter_by(study_id=study_id, key=RUN))
            if run is not None:
                self._claims[study_id] = json.loads(run)

    @contextmanager
    def transaction(self, study_id: int | None) -> Iterator[Session]:
        """A session whose writes to a study, or to one that it creates itself, are committed together.

        Raises:
            StorageError: Another run has taken over the study; nothing was written.
        """
        with Session(self.engine) as session, session.begin():
            if study_id in self._claims:
                # An UPDATE, because that locks the row (PostgreSQL) or the database (SQLite) until the commit.
                run = json.dumps(self._claims[study_id])
                same = update(SYSTEM_ATTRIBUTES).filter_by(study_id=study_id, key=RUN, value_json=run)
                if session.connection().execute(same.values(value_json=run)).rowcount != 1:
                    raise StorageError(
                        "another run of this study has taken over its database, so this one stops; what it had stored "
                        "is kept"
                    )
            yield session

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.transaction(study_id) as session:
            write_study_attribute(session, study_id, key, value)

    def names(self) -> dict[str, int]:
        """The id of every study by name, in the order in which they were created; damaged studies are among them."""
        with Session(self.engine) as session:
            rows = session.execute(select(STUDIES.c.study_name, STUDIES.c.study_id).order_by(STUDIES.c.study_id))
            return {row.study_name: row.study_id for row in rows}


def database_of(study: optuna.Study) -> Database:
    """The database of a stored study; ``study`` must come from a storage that ``open_storage`` opened."""
    backend = backend_of(study)
    if not isinstance(backend, Database):
        raise TypeError(f"study '{study.study_name}' is in a {type(backend).__name__}; open it with open_storage")
    return backend


def without_password(url: str) -> str:
    """A database URL that may be printed, logged and stored."""
    parsed = make_url(url)
    hidden = {key: "hidden" for key in parsed.query if key.lower() in SECRET}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn errors of the database into a ``StorageError`` (exit code 4) that names the database and its message."""
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _failed(url, error) from error


def _failed(url: str, error: Exception) -> StorageError:
    message = str(error.__cause__ or error).partition("\n")[0]
    return StorageError(
        f"the database {without_password(url)} failed: {message}; nothing in it was removed; correct this and give the "
        f"same command again"
    )


def open_storage(
    url: str, access: Literal["create", "write", "read"] = "create", *, wait: float = LOCK_WAIT
) -> Database:
    """Open the database of an SQLAlchemy URL; with access ``create``, create its tables where it has none.

    SQLite gets a write-ahead log, so that readers never wait for a writer. With access ``read`` its file and its folder
    may be read-only. ``wait`` is how many seconds to wait for another program that writes to it.

    Raises:
        StorageError: The URL is invalid, or names no database, one of another version, or one out of reach.
        NothingUsableError: The SQLite file does not exist or holds no studies, and is not to be created.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        parsed = make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise StorageError(
            "the database URL is not one that SQLAlchemy reads; give e.g. sqlite:///storage/studies.db or "
            "postgresql+psycopg://user@host/name"
        ) from None
    file = sqlite_file(parsed)
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite") and parsed.get_backend_name() == "sqlite":
        raise StorageError(f"Optuna cannot use '{parsed.drivername}'; give the file as sqlite:///{parsed.database}")
    if file and access != "create" and not file.exists():
        raise NothingUsableError(f"{file} does not exist, so nothing is stored; `restora run STUDY` creates it")
    try:
        with storage_errors(url):
            if file and access == "read":
                return Database(url, engine_kwargs={"creator": reader(file, wait)}, skip_table_creation=True)
            if parsed.get_backend_name() == "sqlite":
                return _open_sqlite(url, file, wait)
            return _open_server(url, parsed)
    except (RuntimeError, OSError, ImportError, sqlite3.Error) as error:  # another version, no access, no driver
        raise _failed(url, error) from error


def _open_sqlite(url: str, file: Path | None, wait: float) -> Database:
    options = {"engine_kwargs": {"connect_args": {"timeout": wait}}}
    if file is None:
        return Database(url, **options)
    with created(file):
        storage = Database(url, **options)
        sqlalchemy.event.listen(storage.engine, "connect", write_ahead)
        storage.engine.dispose()
    return storage


def _open_server(url: str, parsed: URL) -> Database:
    """Open the database of a server, whose connections are tried before use, and made again after a restart."""
    with ExitStack() as alone:
        if parsed.get_backend_name() == "postgresql":  # two processes that create the same tables would collide
            alone.enter_context(advisory_lock(url, "tables"))
        storage = Database(url, engine_kwargs={"pool_pre_ping": True})
    wait_for_restarts(storage.engine)
    return storage


@contextmanager
def only_run(storage: Database, study: str) -> Iterator[None]:
    """Refuse a second run of a study on the same database, from whatever folder or machine, until this one ends.

    On PostgreSQL the lock belongs to a connection of its own. A second run that is admitted in the moment in which that
    connection is replaced claims the study, and this one fails at its next transaction.

    Raises:
        StorageError: Another run of the study is going on.
    """
    url = storage.engine.url
    with ExitStack() as held:
        if file := sqlite_file(url):
            held.enter_context(exclusive(database_lock(file, study), f"study '{study}'"))
        elif url.get_backend_name() == "postgresql":
            held.enter_context(only_run_on_server(url, study))
        yield
