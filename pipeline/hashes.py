"""sha256 of tensors: what weights, data and splits are recognised by."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order given."""
    digest = hashlib.sha256()
    for name, value in tensors:
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Viewed as bytes, because numpy knows no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_weights(model: nn.Module) -> str:
    """sha256 of a model's state, whatever the order of its entries."""
    state = model.state_dict()
    return hash_tensors((name, state[name]) for name in sorted(state))
