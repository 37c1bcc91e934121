"""sha256 of files, JSON values, tensors and models, by which data and weights are identified."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # those who hash files and JSON values need no torch
    from torch import Tensor, nn


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_sha256(data: bytes) -> str:
    """sha256 of bytes, as ``sha256sum`` prints it."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of the keys of its tables."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_tensors(tensors: "Iterable[tuple[str, Tensor]]") -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors, in the order given."""
    import torch

    digest = hashlib.sha256()
    for name, value in tensors:
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Viewed as bytes, because numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_weights(model: "nn.Module") -> str:
    """sha256 of a model's state, whatever the order of its entries; what is no tensor has to be a JSON value."""
    import torch

    state = model.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    digest = hash_tensors((name, tensors[name]) for name in sorted(tensors))
    extra = {name: value for name, value in state.items() if name not in tensors}
    return fingerprint([digest, extra]) if extra else digest
