"""One run of a study at a time on one machine."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import StorageError

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


def database_lock(database: str, study: str) -> Path:
    """The lock file of a study in an SQLite file, beside it."""
    return Path(f"{database}.{study}.lock")
