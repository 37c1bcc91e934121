"""What may be removed from ``storage/`` without losing a trial, a winner or an export."""

import shutil
from pathlib import Path

from optuna.storages import RDBStorage

from pipeline.paths import ANSWERS, BASELINES, COMPRESSED, FEATURES, STORAGE
from pipeline.results.stored_results import own_studies, read_results
from pipeline.store.kept_adapters import Kept
from pipeline.train.cache.cache_folder import discard, is_in_use


def unneeded(storage: RDBStorage) -> list[Path]:
    """Caches that are not in use, half-written files and folders, and adapters that are no stored winner's."""
    studies = {name.partition("/")[0] for name in own_studies(storage)}
    winners = {
        Kept(study, result.name).path(cell.cell)
        for study in studies
        for result in read_results(storage, study)
        for cell in result.cells
        if cell.best is not None
    }
    adapters = {path for study in studies for path in (STORAGE / "artifacts" / study).rglob("*.safetensors")}
    # A folder that was stopped between two renames may hold the only copy of the checkpoint that it was to replace.
    swaps = (STORAGE / "exports").rglob(".rank-*")
    replaced = {path for path in swaps if path.with_name(path.name[1:].rpartition(".")[0]).exists()}
    strays = {path for path in STORAGE.rglob(".*.tmp") if FEATURES not in path.parents}  # a build clears its own
    half_written = {*strays, *replaced}
    features = {folder for folder in FEATURES.glob("*") if folder.is_dir() and not is_in_use(folder)}
    kept = {path for folder in (ANSWERS, BASELINES, COMPRESSED) for path in folder.glob("*.safetensors")}
    return sorted({*half_written, *(adapters - winners), *kept, *features})


def remove(path: Path) -> None:
    """Remove what was found unneeded; a cache that came into use meanwhile stays."""
    if path.parent == FEATURES:
        discard(path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
