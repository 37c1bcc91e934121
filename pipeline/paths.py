"""Where a run keeps its files: everything below ``storage/`` of the working folder."""

import errno
import os
import shutil
import tempfile
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


def write_whole(path: Path, write: Callable[[Path], object], size: int | None = None) -> None:
    """Write a file so that ``path`` holds its old or its new content, never a part: ``write`` fills a temporary file.

    The ``size`` in bytes, if it is known, is for the message about a full disk.

    Raises:
        OSError: The disk is full, or another failure of the system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # a temporary file is its owner's alone; reports and checkpoints are for others too
        os.replace(name, path)
    except Exception as error:
        if not _says_disk_is_full(error):
            raise
        needed = "" if size is None else f"the file takes {readable_bytes(size)}, "
        free = readable_bytes(shutil.disk_usage(path.parent).free)
        raise OSError(errno.ENOSPC, f"the disk is full ({needed}{free} are free)", str(path)) from error
    finally:
        Path(name).unlink(missing_ok=True)


def _says_disk_is_full(error: Exception) -> bool:
    """Whether an error is ENOSPC; safetensors raises it as an error of its own that has the number in its text."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error)
