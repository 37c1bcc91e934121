"""Connections to a database server, which an administrator, a time limit or a restart of the server may end."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection, Engine, select
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from pipeline.errors import StorageError

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for a server that restarts."""
RETRY = 0.5
"""Seconds between two attempts to reach it."""
PULSE = 1.0
"""Seconds between two looks at the connection that holds a lock."""


def wait_for_restarts(engine: Engine) -> None:
    """Let new connections of an engine wait until a server that was reached before is there again."""

    def connect(dialect: Dialect, _record: object, arguments: Any, options: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(RETRY)

    sqlalchemy.event.listen(engine, "do_connect", connect)


def is_lost(error: Exception) -> bool:
    """Whether an error of SQLAlchemy or Optuna says that the server ended a connection that was in use."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


@contextmanager
def advisory_lock(url: URL | str, name: str) -> Iterator[None]:
    """Wait for an advisory lock of PostgreSQL, and hold it."""
    with sqlalchemy.create_engine(url, poolclass=NullPool).connect() as connection:
        connection.execute(select(sqlalchemy.func.pg_advisory_lock(_key(name))))
        yield


@contextmanager
def only_run_on_server(url: URL, study: str) -> Iterator[None]:
    """Hold the advisory lock of a study; if its connection is ended, the lock is taken again within a second.

    Raises:
        StorageError: Another run holds it.
    """
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    connection = _locking(engine, study)
    if connection is None:
        raise StorageError(f"study '{study}' is being run on this database; wait for it, or stop it")
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(engine, connection, study, ended), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join(PULSE)  # a server that does not answer keeps no run from ending


def _keep(engine: Engine, connection: Connection | None, study: str, ended: threading.Event) -> None:
    """Look at the connection that holds the lock until the run has ended, and replace it where it is gone."""
    while not ended.wait(PULSE):
        try:
            if connection is not None:
                connection.scalar(select(1))
                connection.commit()
                continue
        except SQLAlchemyError:
            _drop(connection)
            connection = None
        with suppress(SQLAlchemyError):  # the server restarts, perhaps
            connection = _locking(engine, study)
            if connection is None:
                return  # another run was let in; this one fails at its next transaction
            logger.info(f"the database ended the connection that locks study '{study}'; it is locked again")
    _drop(connection)


def _locking(engine: Engine, study: str) -> Connection | None:
    """A new connection that holds the lock of a study; None if another has it."""
    connection = engine.connect()
    if not connection.scalar(select(sqlalchemy.func.pg_try_advisory_lock(_key(study)))):
        connection.close()
        return None
    connection.commit()  # the lock belongs to the connection, and outlives the transaction
    return connection


def _drop(connection: Connection | None) -> None:
    """Close a connection without a word to a server that may have closed it before."""
    if connection is not None:
        connection.invalidate()
        connection.close()


def _key(name: str) -> sqlalchemy.ColumnElement[int]:
    return sqlalchemy.func.hashtext(f"restora/{name}")
