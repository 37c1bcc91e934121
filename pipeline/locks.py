"""One run of a study at a time on one machine."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sqlalchemy.engine import make_url

from pipeline.errors import StorageError
from pipeline.paths import LOCKS

TRIES, APART = 5, 0.02
"""How often a lock is asked for, and the seconds between: who only looks whether it is held has it for a moment."""


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which the system releases when the process ends, however it ends.

    Raises:
        StorageError: Another process holds it; its pid is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not any(_taken(file, fcntl.LOCK_EX, wait=APART) for _ in range(TRIES)):
            file.seek(0)
            raise StorageError(f"{what} is being run by process {file.read().strip()}; wait for it, or stop it")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _taken(file: IO[str], kind: int, wait: float = 0.0) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(wait)
        return False
    return True


def is_held(path: Path) -> bool | None:
    """Whether a process holds a lock file; none where there is no such file, so nothing is known."""
    try:
        with path.open("r") as file:
            return not _taken(file, fcntl.LOCK_SH)
    except OSError:
        return None


def is_run(url: str, study: str) -> bool | None:
    """Whether a run of a study goes on, whatever folder it was started in.

    Returns:
        None where it cannot be known: the database is a server's and no run was started here, or its file is a copy.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return is_held(database_lock(parsed.database, study))
    return is_held(LOCKS / f"{study}.lock") or None


def database_lock(database: str | Path, study: str) -> Path:
    """The lock file of a study in an SQLite file: beside that file itself, whatever symbolic links lead to it."""
    return Path(f"{Path(database).resolve()}.{study}.lock")
