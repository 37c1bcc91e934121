"""How the factors of a low-rank adapter are stored: in float32, in float16, or as 8-bit codes with scales.

In 8 bits each of the ``r`` directions, a row of ``A [r, in]`` or a column of ``B [out, r]``, has a float32 scale:
``q = round(127 a / max |a|)``. Packing what was unpacked gives the same tensors again.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

FactorType = Literal["float32", "float16", "int8"]
DIRECTION_AXIS = {"lora_A": -1, "lora_B": -2}
"""The axis along which a direction of each factor lies; leading axes are lanes."""


def pack_factors(parameters: Mapping[str, Tensor], kind: FactorType) -> dict[str, Tensor]:
    """Parameters with their factors packed; the scales of ``fc1.lora_A`` are ``fc1.lora_A_scale [r]``."""
    tensors = {}
    for name, tensor in parameters.items():
        axis = DIRECTION_AXIS.get(name.rpartition(".")[2])
        if axis is None or kind == "float32":
            tensors[name] = tensor
        elif kind == "float16":
            tensors[name] = tensor.half()
        else:
            scale = tensor.abs().amax(axis, keepdim=True) / 127
            tensors[name] = (tensor / scale.where(scale > 0, 1)).round().to(torch.int8)
            tensors[f"{name}_scale"] = scale.squeeze(axis)
    return tensors


def unpack_factors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``pack_factors``; packed factors become float32."""
    parameters = {}
    for name, tensor in tensors.items():
        axis = DIRECTION_AXIS.get(name.rpartition(".")[2])
        if axis is not None and f"{name}_scale" in tensors:
            parameters[name] = tensor * tensors[f"{name}_scale"].unsqueeze(axis)
        elif not name.endswith(("lora_A_scale", "lora_B_scale")):
            parameters[name] = tensor.float() if tensor.dtype == torch.float16 and axis is not None else tensor
    return parameters
