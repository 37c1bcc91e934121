"""What may be removed from ``storage/`` without losing a trial, a winner or an export."""

import shutil
from pathlib import Path

from pipeline.paths import ANSWERS, BASELINES, CHECKED, COMPRESSED, FEATURES, STORAGE
from pipeline.results.reading import read_all
from pipeline.store.database import Database
from pipeline.store.kept_adapters import Kept
from pipeline.train.cache.cache_folder import is_in_use, remove_unused


def unneeded(storage: Database) -> list[Path]:
    """Caches that are not in use, half-written files and folders, and adapters that are no stored winner's."""
    results = read_all(storage)
    winners = {Kept(one.of, one.name).path(cell.cell) for one in results for cell in one.cells if cell.best}
    studies = {one.of for one in results}
    adapters = {path for study in studies for path in (STORAGE / "artifacts" / study).rglob("*.safetensors")}
    # What belongs to a study that could not be read may be a winner's.
    unread = {STORAGE / "artifacts" / name for name in storage.names()} - {
        Kept(one.of, one.name).folder for one in results
    }
    adapters -= {path for path in adapters if path.parent in unread}
    # A folder that was stopped between two renames may hold the only copy of the checkpoint that it was to replace.
    swaps = (STORAGE / "exports").rglob(".rank-*")
    replaced = {path for path in swaps if path.with_name(path.name[1:].rpartition(".")[0]).exists()}
    strays = {path for path in STORAGE.rglob(".*.tmp") if FEATURES not in path.parents}  # a build clears its own
    half_written = {*strays, *replaced}
    features = {folder for folder in FEATURES.glob("*") if folder.is_dir() and not is_in_use(folder)}
    kept = {path for folder in (ANSWERS, BASELINES, COMPRESSED) for path in folder.glob("*.safetensors")}
    kept |= set(CHECKED.glob("*.json"))
    return sorted({*half_written, *(adapters - winners), *kept, *features})


def remove(path: Path) -> None:
    """Remove what was found unneeded; a cache that came into use meanwhile stays."""
    if path.parent == FEATURES:
        remove_unused(path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
