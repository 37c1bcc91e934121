"""Files of the best adapters: one per cell, that of its best complete trial so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.cell import Cell
from pipeline.hashes import file_sha256, hash_tensors
from pipeline.paths import adapters_folder, write_whole
from pipeline.store.stored_study import note_file, trial_key


@dataclass(frozen=True)
class Kept:
    """The adapter files of a combination.

    ``identity`` is the ``id`` of the stored study. Another database may hold trials of the same names and numbers.
    """

    study: str
    combination: str
    identity: str = ""

    @property
    def folder(self) -> Path:
        return adapters_folder(self.study, self.combination)

    def path(self, cell: Cell) -> Path:
        return self.folder / f"rank-{cell.rank}.{cell.init}.safetensors"

    def save(self, cell: Cell, number: int, parameters: Mapping[str, Tensor]) -> None:
        """Write the parameters of trial ``number``, replacing those of the cell's former best trial."""
        tensors = {name: tensor.contiguous() for name, tensor in parameters.items()}
        metadata = {"trial": trial_key(self.identity, number), "sha256": _hash(tensors)}
        size = sum(tensor.nbytes for tensor in tensors.values())
        write_whole(self.path(cell), lambda path: save_file(tensors, path, metadata=metadata), size)

    def save_best(self, study: optuna.Study, cell: Cell, number: int, parameters: Mapping[str, Tensor]) -> None:
        """Write the parameters, and note in the stored trial which file holds them."""
        self.save(cell, number, parameters)
        note_file(study, number, "adapter", self.path(cell), file_sha256(self.path(cell)))

    def load(self, cell: Cell, number: int) -> dict[str, Tensor] | None:
        """The parameters of trial ``number``; None if its file is missing or damaged, so that it is trained again."""
        try:
            with safe_open(self.path(cell), framework="pt") as file:
                noted = file.metadata() or {}
                if noted.get("trial") != trial_key(self.identity, number):
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                return tensors if noted.get("sha256") == _hash(tensors) else None
        except (OSError, SafetensorError):
            return None


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of an adapter, whatever the order of its tensors."""
    return hash_tensors((name, tensors[name]) for name in sorted(tensors))
