"""Files that can be removed from ``storage/`` without losing a trial, a winner or an export."""

import shutil
from pathlib import Path

from pipeline.locks import is_held
from pipeline.paths import ANSWERS, BASELINES, CHECKED, COMPRESSED, FEATURES, LOCKS, STORAGE
from pipeline.results.reading import read_all
from pipeline.store.database import Database
from pipeline.store.kept_adapters import Kept
from pipeline.train.cache.cache_folder import is_in_use, remove_unused

STRAYS = (".*.tmp", ".tmp??????")
"""Names of half-written files: those of this package and those of safetensors."""


def unneeded(storage: Database) -> list[Path]:
    """Caches that are not in use, half-written files and folders, and adapters of trials that are no winners."""
    # Listed before the trials are read: an adapter is written after its trial, so each of these has its trial there.
    artifacts = STORAGE / "artifacts"
    adapters = set(artifacts.rglob("*.safetensors"))
    results = read_all(storage)
    studies = {one.of for one in results}
    winners = {Kept(one.of, one.name).path(cell.cell) for one in results for cell in one.cells if cell.best}
    # What belongs to a study that could not be read may be a winner's.
    unread = {artifacts / name for name in storage.names()} - {Kept(one.of, one.name).folder for one in results}
    paths = {path for path in adapters - winners if path.relative_to(artifacts).parts[0] in studies}
    paths = {path for path in paths if path.parent not in unread} | _half_written() | set(CHECKED.glob("*.json"))
    paths |= {folder for folder in FEATURES.glob("*") if folder.is_dir() and not is_in_use(folder)}
    return sorted(paths.union(*(folder.glob("*.safetensors") for folder in (ANSWERS, BASELINES, COMPRESSED))))


def _half_written() -> set[Path]:
    """What a killed process left behind; nothing while a run of any study is alive, since it may be the run's own."""
    strays = {path for pattern in STRAYS for path in STORAGE.rglob(pattern) if FEATURES not in path.parents}
    # A folder that was stopped between two renames may hold the only copy of the checkpoint that it was to replace.
    swaps = (STORAGE / "exports").rglob(".rank-*")
    replaced = {path for path in swaps if path.with_name(path.name[1:].rpartition(".")[0]).exists()}
    # Checked after the search, so that a run that starts meanwhile loses nothing.
    return set() if any(is_held(lock) for lock in LOCKS.glob("*.lock")) else strays | replaced


def remove(path: Path) -> None:
    """Remove an unneeded file or folder; a cache that has come into use meanwhile stays."""
    if path.parent == FEATURES:
        remove_unused(path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
