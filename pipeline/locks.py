"""Locks on files, between processes of one machine; the system releases them when the process ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy.engine import make_url

from pipeline.errors import StorageError
from pipeline.paths import LOCKS

PATIENCE = 10.0
"""Seconds to wait for processes that only check a lock; each of them holds it for a moment."""


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[int]:
    """Hold a lock file, which is created where there is none, and yield its handle.

    With ``shared`` others may hold it too, as long as they share it; with ``wait`` it is waited for.

    Raises:
        BlockingIOError: Another process, or another place of this one, holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield handle
    finally:
        os.close(handle)


def share(handle: int) -> None:
    """Let others share a lock that is held."""
    fcntl.flock(handle, fcntl.LOCK_SH)


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file that names the process which holds it.

    Raises:
        StorageError: Another process holds it. The message says that ``what`` is being run, and names the process.
    """
    with ExitStack() as held:
        until, entered = time.monotonic() + PATIENCE, False
        while not entered:
            with suppress(BlockingIOError):
                held.enter_context(locked(path))
                entered = True
            # Whoever only checks it shares it, so a lock that cannot be shared is one that somebody keeps.
            if not entered and (is_held(path) or time.monotonic() > until):
                pid = path.read_text().strip()
                raise StorageError(f"{what} is being run by process {pid}; wait for it, or stop it")
        path.write_text(str(os.getpid()))
        yield


def is_held(path: Path) -> bool | None:
    """Whether a process holds a lock file alone; None where there is no such file, so that nothing is known."""
    try:
        if not path.exists():
            return None
        with locked(path, shared=True):
            return False
    except BlockingIOError:
        return True
    except OSError:  # a file of another user
        return None


def is_run(url: str, study: str) -> bool | None:
    """Whether a run of a study in the database at a URL is going on, whatever folder it was started in.

    None where it is unknown: the database is a server's and no run was started in this folder, or the file is a copy
    without the lock file beside it.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return is_held(database_lock(parsed.database, study))
    return is_held(LOCKS / f"{study}.lock") or None


def database_lock(database: str | Path, study: str) -> Path:
    """The lock file of a study in an SQLite file: beside that file itself, whatever symbolic links lead to it."""
    return Path(f"{Path(database).resolve()}.{study}.lock")
