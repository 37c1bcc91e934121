"""Opening the database of the stored studies: SQLite, PostgreSQL, or whatever else SQLAlchemy reaches."""

import json
import logging
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pipeline.errors import NothingUsableError, StorageError
from pipeline.locks import NoLocksError, database_lock, exclusive, locked
from pipeline.store.optuna_tables import STUDIES, SYSTEM_ATTRIBUTES, backend_of, write_study_attribute

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
    return StorageError(f"the database {without_password(url)} failed: {message}; nothing in it was removed")


def open_storage(url: str, *, create: bool = True, wait: float = LOCK_WAIT) -> Database:
    """Open the database of an SQLAlchemy URL; create its tables where it has none.

    SQLite gets a write-ahead log, so that readers never wait for a writer. ``create`` says whether a file that does not
    exist is created; ``wait`` is how many seconds to wait for another program that writes to it.

    Raises:
        StorageError: The URL is invalid, or names no database, one of another version, or one out of reach.
        NothingUsableError: The SQLite file does not exist, and ``create`` is false.
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
    if file and not create and not file.exists():
        raise NothingUsableError(f"{file} does not exist, so nothing is stored; `restora run STUDY` creates it")
    try:
        with storage_errors(url):
            if parsed.get_backend_name() == "sqlite":
                return _open_sqlite(url, file, wait)
            if parsed.get_backend_name() == "postgresql":  # two processes that create the same tables would collide
                with sqlalchemy.create_engine(url, poolclass=NullPool).connect() as connection:
                    connection.execute(select(sqlalchemy.func.pg_advisory_lock(_key("tables"))))
                    return Database(url)
            return Database(url)
    except (RuntimeError, OSError, ImportError) as error:  # another version's tables, no access, no driver
        raise _failed(url, error) from error


def sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite database; None for a database in memory or on a server."""
    is_file = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    return Path(str(url.database)) if is_file else None


def _open_sqlite(url: str, file: Path | None, wait: float) -> Database:
    options = {"engine_kwargs": {"connect_args": {"timeout": wait}}}
    if file is None:
        return Database(url, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and _identity(file) not in _opened:
        with file.open("rb") as opened:
            magic = opened.read(16)
        if magic not in (b"", b"SQLite format 3\x00"):
            raise StorageError(f"{file} is not an SQLite database; it was left alone; name another by --storage")
    with ExitStack() as alone:
        # Two processes that create the tables of a new file at once would collide. Where no lock file can be written,
        # no table can be created either.
        with suppress(OSError, NoLocksError):
            alone.enter_context(locked(Path(f"{file.resolve()}.lock"), wait=True))
            if not file.exists():
                file.touch()  # with the rights that the umask leaves; SQLite would give fewer
        storage = Database(url, **options)
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()
    _opened.add(_identity(file))
    return storage


_opened: set[tuple[int, int]] = set()
"""Device and inode of the SQLite files that this process has opened.

When a process closes a descriptor of a file, POSIX drops all locks that the process has on it, those of SQLite's own
connections too. A file that is in use here is therefore not opened again by other means.
"""


def _identity(file: Path) -> tuple[int, int]:
    known = file.stat()
    return known.st_dev, known.st_ino


def _write_ahead(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _key(name: str) -> sqlalchemy.ColumnElement[int]:
    """The number of an advisory lock of PostgreSQL."""
    return sqlalchemy.func.hashtext(f"restora/{name}")


@contextmanager
def only_run(storage: Database, study: str) -> Iterator[None]:
    """Refuse a second run of a study on the same database, from whatever folder or machine, until this one ends.

    On PostgreSQL the lock belongs to a connection of its own, and is lost with that connection. A second run that is
    then admitted claims the study, and this one fails at its next transaction.

    Raises:
        StorageError: Another run of the study is going on.
    """
    file, is_postgresql = sqlite_file(storage.engine.url), storage.engine.url.get_backend_name() == "postgresql"
    if file:
        with exclusive(database_lock(file, study), f"study '{study}'"):
            yield
    elif is_postgresql:
        connection = sqlalchemy.create_engine(storage.engine.url, poolclass=NullPool).connect()
        try:
            if not connection.scalar(select(sqlalchemy.func.pg_try_advisory_lock(_key(study)))):
                raise StorageError(f"study '{study}' is being run on this database; wait for it, or stop it")
            connection.commit()  # the lock belongs to the connection, and outlives the transaction
            yield
        finally:
            connection.invalidate()  # closes it without a word to a server that may have closed it before
            connection.close()
    else:
        yield
