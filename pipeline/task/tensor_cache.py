"""Tensors that are kept whole under the hash of everything that they depend on, and checked when they are read."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.hashes import fingerprint, hash_tensors
from pipeline.paths import write_whole


def read_kept(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that ``keep`` wrote; its name is their key.

    Raises:
        ValueError: They are not what was written, or another key's.
        Exception: A damaged header makes the reader raise nearly anything.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        noted = (file.metadata() or {}).get("sha256")
    found = _hash(path.stem, tensors)
    if found != noted:
        raise ValueError(f"its sha256 is {found}, and {noted} was noted")
    return tensors


def keep(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to ``<key>.safetensors`` so that ``read_kept`` finds them."""
    # Cloned, because safetensors refuses entries that share memory.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"sha256": _hash(path.stem, own)}
    write_whole(path, lambda temporary: save_file(own, temporary, metadata=metadata))


def _hash(key: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the tensors and what they depend on, so that another task's file is noticed."""
    return fingerprint([key, hash_tensors((name, tensors[name]) for name in sorted(tensors))])
