"""How the factors of an adapter are stored: as they are, in half precision, or in 8 bits.

In 8 bits every one of the ``r`` directions, a row of ``A [r, in]`` and a column of ``B [out, r]``, has a float32 scale:
``q = round(127 a / max |a|)``. Storing again what was read changes nothing.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

FactorType = Literal["float32", "float16", "int8"]
ALONG = {"lora_A": -1, "lora_B": -2}
"""The axis along which a direction of each factor lies."""


def _is_factor(name: str) -> bool:
    return name.rpartition(".")[2] in ALONG


def _coded(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales; axes before the two of a factor are lanes."""
    scale = tensor.abs().amax(ALONG[name.rpartition(".")[2]], keepdim=True) / 127
    return (tensor / scale.where(scale > 0, 1)).round().to(torch.int8), scale


def rounded(parameters: Mapping[str, Tensor], kind: FactorType) -> Mapping[str, Tensor]:
    """Parameters as they come back from a file."""
    if kind == "float32":
        return parameters
    return {name: _rounded(name, tensor, kind) if _is_factor(name) else tensor for name, tensor in parameters.items()}


def _rounded(name: str, tensor: Tensor, kind: FactorType) -> Tensor:
    if kind == "float16":
        return tensor.half().to(tensor.dtype)
    codes, scale = _coded(name, tensor)
    return codes * scale


def to_tensors(parameters: Mapping[str, Tensor], kind: FactorType) -> dict[str, Tensor]:
    """Parameters in their packed form; the scales of ``lora_A`` are ``lora_A_scale``, ``[r]``."""
    tensors = {}
    for name, tensor in parameters.items():
        if not _is_factor(name) or kind == "float32":
            tensors[name] = tensor
        elif kind == "float16":
            tensors[name] = tensor.half()
        else:
            codes, scale = _coded(name, tensor)
            tensors[name], tensors[f"{name}_scale"] = codes, scale.flatten()
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``to_tensors`` packed, in float32."""
    parameters = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale") and _is_factor(name.removesuffix("_scale")):
            continue
        scale = tensors.get(f"{name}_scale")
        if scale is not None and _is_factor(name):
            axis = ALONG[name.rpartition(".")[2]]
            parameters[name] = tensor * scale.unsqueeze(axis)
        else:
            parameters[name] = tensor.float() if _is_factor(name) else tensor
    return parameters
