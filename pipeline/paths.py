"""Where a run keeps its files: everything below ``storage/`` of the working folder."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

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


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that ``path`` is the old one or the new one, never half: a neighbour is swapped in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # a temporary file is its owner's alone; reports and checkpoints are for others too
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
