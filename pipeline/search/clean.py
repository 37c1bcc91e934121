"""What may be removed from ``storage/`` without losing a trial, a winner or an export."""

from pathlib import Path

from optuna.storages import RDBStorage

from pipeline.paths import BASELINES, STORAGE
from pipeline.search.keep import Kept
from pipeline.search.results import own_studies, read_results


def unneeded(storage: RDBStorage) -> list[Path]:
    """Caches, half-written files and folders, and kept adapters of cells that are not in the database."""
    studies = {name.partition("/")[0] for name in own_studies(storage)}
    winners = {
        Kept(study, result.name).path(cell.cell)
        for study in studies
        for result in read_results(storage, study)
        for cell in result.cells
        if cell.best is not None
    }
    adapters = set((STORAGE / "artifacts").rglob("*.safetensors"))
    half_written = {*STORAGE.rglob(".*.tmp"), *(STORAGE / "exports").rglob(".rank-*")}
    return sorted({*half_written, *(adapters - winners), *BASELINES.glob("*.safetensors")})
