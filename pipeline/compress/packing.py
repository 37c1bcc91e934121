"""Packing of small integer codes into bytes, and naming of the packed tensors of a weight that has several parts."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Packing(NamedTuple):
    """How codes are packed."""

    width: int
    """Bits of a code."""
    columns: int = 0
    """Codes of a row, if they are those of a matrix in row-major order; otherwise 0."""


AT_ONCE = 2**20
"""Codes that are unpacked at once, a multiple of 8 so that each part begins with a whole byte."""


def pack(codes: Tensor, width: int) -> Tensor:
    """Pack ``n`` integers or bools in ``[0, 2 ** width)`` into uint8 ``[ceil(n * width / 8)]``, lowest bits first.

    >>> pack(torch.tensor([1, 0, 1]), 1)
    tensor([5], dtype=torch.uint8)

    The width is at most 32; the last byte is padded with zero bits.
    """
    if codes.is_meta:  # only the shape is known
        return codes.new_empty(-(-codes.numel() * width // 8), dtype=torch.uint8)
    size = 1 if width <= 8 else 4
    code_bytes = codes.flatten().numpy().astype(f"<u{size}").view(np.uint8).reshape(-1, size)
    bits = np.unpackbits(code_bytes, axis=1, count=width, bitorder="little")
    return torch.from_numpy(np.packbits(bits.ravel(), bitorder="little"))


def unpack(packed: Tensor, count: int, width: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Read back the first ``count`` codes that ``pack`` wrote: ``[count]`` of a type that holds them.

    >>> unpack(torch.tensor([5], dtype=torch.uint8), count=3, width=1)
    tensor([1, 0, 1])
    """
    codes = torch.empty(count, dtype=dtype)
    for start in range(0, count, AT_ONCE):
        some = codes[start : start + AT_ONCE]
        part = packed[start * width // 8 :].numpy()
        bits = np.unpackbits(part, count=len(some) * width, bitorder="little").reshape(len(some), width)
        eight_bytes = np.zeros((len(some), 8), np.uint8)
        eight_bytes[:, : -(-width // 8)] = np.packbits(bits, axis=1, bitorder="little")
        some[:] = torch.from_numpy(eight_bytes.view("<i8").reshape(len(some)))
    return codes


def join_parts(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Merge the packed tensors of several named parts; part ``first``'s tensor ``code`` becomes ``first_code``."""
    return {f"{part}_{kind}": tensor for part, tensors in parts.items() for kind, tensor in tensors.items()}


def join_packings(parts: Mapping[str, Mapping[str, Packing]]) -> dict[str, Packing]:
    """The packings of tensors that ``join_parts`` merged."""
    return {f"{part}_{kind}": packing for part, packings in parts.items() for kind, packing in packings.items()}


def select_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part of what ``join_parts`` merged, without the part's prefix."""
    prefix = f"{part}_"
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
