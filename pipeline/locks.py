"""Locks on files, between processes of one machine; the system releases them when the process ends, however it ends."""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy.engine import make_url

from pipeline.errors import StorageError
from pipeline.paths import LOCKS, existing, read_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 10.0
"""Seconds to wait for processes that only check a lock; each of them holds it for a moment."""


class NoLocksError(StorageError):
    """A folder whose files cannot be locked."""


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[int]:
    """Hold a lock file, which is created where there is none, and yield its handle.

    With ``shared`` others may hold it too, as long as they share it; with ``wait`` it is waited for.

    Raises:
        BlockingIOError: Another process, or another place of this one, holds it.
        NoLocksError: The file system or the system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # NFS locks a file alone only for whoever may write to it; that of another user can often be read alone.
    reads = shared or (path.exists() and not os.access(path, os.W_OK))
    handle = os.open(path, (os.O_RDONLY if reads else os.O_RDWR) | os.O_CREAT, 0o666)
    try:
        _lock(handle, path.parent, shared=shared, wait=wait)
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, *, shared: bool, wait: bool) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "this system has no flock")
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        raise NoLocksError(
            f"the folder {folder.resolve()} cannot be locked ({error.strerror}), as on some cloud and network drives, "
            f"and on Windows outside WSL; work in a folder on a local disk, or name a database there by --storage or "
            f"RESTORA_STORAGE"
        ) from error


def share(handle: int) -> None:
    """Let others share a lock that is held."""
    fcntl.flock(handle, fcntl.LOCK_SH)


def refuse_unusable(path: Path, *, locks: bool) -> None:
    """Try whether files can be written, and with ``locks`` locked too, where a file or folder lies or would be created.

    Raises:
        StorageError: They cannot.
    """
    folder = existing(path.parent)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if locks:
                _lock(file.fileno(), folder, shared=False, wait=False)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: no file can be created in {folder} ({error.strerror}); work in another folder, "
            f"or name a database elsewhere by --storage or RESTORA_STORAGE"
        ) from None


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file that names the process which holds it.

    Raises:
        StorageError: Another process holds it. The message says that ``what`` is being run, and names the process.
        NoLocksError: The file system or the system has no locks.
    """
    with ExitStack() as held:
        until, entered = time.monotonic() + PATIENCE, False
        while not entered:
            with suppress(BlockingIOError):
                held.enter_context(locked(path))
                entered = True
            # Whoever only checks it shares it, so a lock that cannot be shared is one that somebody keeps.
            if not entered and (is_held(path) or time.monotonic() > until):
                pid = read_text(path).strip()
                raise StorageError(f"{what} is being run by process {pid}; wait for it, or stop it")
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield


def is_held(path: Path) -> bool | None:
    """Whether a process holds a lock file alone; None where there is no such file or no lock, so nothing is known."""
    try:
        if not path.exists():
            return None
        with locked(path, shared=True):
            return False
    except BlockingIOError:
        return True
    except (OSError, NoLocksError):  # a file of another user
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
