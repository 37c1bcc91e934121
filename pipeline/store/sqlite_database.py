"""The file of an SQLite database: creating it, checking it, and reading it where nothing can be written."""

import atexit
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL

from pipeline.errors import NothingUsableError, StorageError
from pipeline.locks import NoLocksError, locked, refuse_unusable

_opened: set[tuple[int, int]] = set()
"""Device and inode of the SQLite files that this process has opened.

When a process closes a descriptor of a file, POSIX drops all locks that the process has on it, those of SQLite's own
connections too. A file that is in use here is therefore not opened again by other means.
"""


def sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite database; None for a database in memory or on a server."""
    is_file = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    return Path(str(url.database)) if is_file else None


@contextmanager
def created(file: Path) -> Iterator[None]:
    """Create the file, and let no other process create tables in it meanwhile.

    Raises:
        StorageError: The file is not an SQLite database, or its folder cannot be written.
    """
    refuse_unusable(file, locks=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        _refuse_other(file)
    with ExitStack() as alone:
        # Two processes that create the tables of a new file at once would collide. Where no lock file can be written,
        # no table can be created either.
        with suppress(OSError, NoLocksError):
            alone.enter_context(locked(Path(f"{file.resolve()}.lock"), wait=True))
            if not file.exists():
                file.touch()  # with the rights that the umask leaves; SQLite would give fewer
        yield
    _opened.add(_identity(file))


def _refuse_other(file: Path) -> None:
    if _identity(file) in _opened:
        return
    with file.open("rb") as opened:
        magic = opened.read(16)
    if magic not in (b"", b"SQLite format 3\x00"):
        raise StorageError(f"{file} is not an SQLite database; it was left alone; name another by --storage")


def _identity(file: Path) -> tuple[int, int]:
    known = file.stat()
    return known.st_dev, known.st_ino


def write_ahead(connection: sqlite3.Connection, _record: object) -> None:
    """Give a new connection a write-ahead log, so that readers never wait for a writer."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def reader(file: Path, wait: float) -> Callable[[], sqlite3.Connection]:
    """What opens connections that only read the file, or a copy of it.

    SQLite needs files beside a database with a write-ahead log. Where they can be neither opened nor created, as on a
    read-only disk, nobody writes either, and a copy with all that a killed run has left is read.

    Raises:
        StorageError: The file is not an SQLite database.
        NothingUsableError: It holds no studies.
        OSError: It cannot be read.
    """
    _refuse_other(file)
    try:
        names = _tables(file, wait)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
        folder = Path(tempfile.mkdtemp(prefix="restora-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for suffix in ("", "-wal", "-journal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{file}{suffix}", folder / f"{file.name}{suffix}")
        file = folder / file.name
        names = _tables(file, wait)
    if "studies" not in names:
        raise NothingUsableError(f"{file} holds no study; `restora run STUDY` writes one")
    _opened.add(_identity(file))
    return lambda: _connect(file, wait)


def _tables(file: Path, wait: float) -> set[str]:
    with closing(_connect(file, wait)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _connect(file: Path, wait: float) -> sqlite3.Connection:
    path = f"file:{quote(str(file.absolute()))}?mode=rw"  # read-only where the file is
    connection = sqlite3.connect(path, uri=True, timeout=wait, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection
