"""Where a run keeps its files, everything below ``storage/`` of the working folder, and how files are read and written.

Text is UTF-8 in any locale. The rights of every file that is written follow the user's umask.
"""

import codecs
import errno
import io
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.wording import readable_bytes

STORAGE = Path("storage")
ANSWERS = STORAGE / "cache" / "answers"
BASELINES = STORAGE / "cache" / "baselines"
CHECKED = STORAGE / "cache" / "checked"
COMPRESSED = STORAGE / "cache" / "compressed"
FEATURES = STORAGE / "cache" / "features"
SPECTRA = STORAGE / "spectra"
PICTURES = STORAGE / "pictures"
LOGS = STORAGE / "logs"
LOCKS = STORAGE / "locks"

WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Encodings by their byte order marks; that of UTF-32 begins with that of UTF-16."""


def adapters_folder(study: str, combination: str) -> Path:
    """Where the best adapter of each cell is kept while its study runs."""
    return STORAGE / "artifacts" / study / combination


def baseline_spectra(weights: str) -> Path:
    """The recorded spectra of a baseline, by the sha256 of its weights."""
    return SPECTRA / f"{weights}.json"


def winner_spectra(study: str, combination: str, rank: int, init: str) -> Path:
    """The recorded spectra of a cell's winner, beside its adapter."""
    return adapters_folder(study, combination) / f"rank-{rank}.{init}.spectra.json"


def exports_folder(study: str, combination: str, rank: int) -> Path:
    return STORAGE / "exports" / study / combination / f"rank-{rank}"


def report_folder(study: str) -> Path:
    return STORAGE / "reports" / study


def default_database() -> str:
    """The SQLAlchemy URL of the stored studies: ``RESTORA_STORAGE``, or SQLite below ``storage/``."""
    return os.environ.get("RESTORA_STORAGE", f"sqlite:///{STORAGE / 'studies.db'}")


def read_text(path: Path) -> str:
    r"""The text of a UTF-8 file, with or without a byte order mark; its lines end in ``\n``.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not UTF-8 text; the message names what it seems to be.
    """
    data = path.read_bytes()
    wide = next((name for mark, name in WIDE.items() if data.startswith(mark)), None)
    if wide is None and 2 * max(data[::2].count(0), data[1::2].count(0)) > len(data) // 2 > 0:
        wide = "UTF-16"  # without a mark: most characters are ASCII, so every second byte is 0
    if wide is not None:
        raise ValueError(f"it is {wide} text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} has the byte 0x{data[error.start]:02x}, which is not UTF-8: it may be Latin-1 (Windows-1252);"
            f" save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"line {line} has a zero byte, so it is not text; write it again as UTF-8")
    return io.StringIO(text, newline=None).read()


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8 by ``write_whole``; bytes of a file's name that are no UTF-8 are written as escapes."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def existing(path: Path) -> Path:
    """The path itself, or its nearest folder that exists; a link to nowhere is in the way, so it counts."""
    return next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))


def write_whole(path: Path, write: Callable[[Path], object], size: int | None = None) -> None:
    """Write a file so that ``path`` holds its old or its new content, never a part: ``write`` fills a temporary file.

    The ``size`` in bytes, if it is known, is for the message about a full disk.

    Raises:
        OSError: The disk is full, or another failure of the system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        rights = temporary.stat().st_mode
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(rights)  # safetensors replaces the file by one that is its owner's alone
        temporary.replace(path)
    except Exception as error:
        if not _says_disk_is_full(error):
            raise
        needed = "" if size is None else f"the file takes {readable_bytes(size)}, "
        free = readable_bytes(shutil.disk_usage(path.parent).free)
        raise OSError(errno.ENOSPC, f"the disk is full ({needed}{free} are free)", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _says_disk_is_full(error: Exception) -> bool:
    """Whether an error is ENOSPC; safetensors raises it as an error of its own that has the number in its text."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error)
