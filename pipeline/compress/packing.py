"""Small codes to bytes and back, and the packed tensors of several weights side by side."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def packed_bits(count: int, width: int) -> int:
    """Bits that ``count`` codes of ``width`` bits take once padded to whole bytes."""
    return 8 * -(-count * width // 8)


def pack(codes: Tensor, width: int) -> Tensor:
    """Pack integers below ``2 ** width``, lowest bit first, into a uint8 tensor of ``ceil(n * width / 8)`` bytes."""
    four_bytes = codes.flatten().numpy().astype("<u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(four_bytes, axis=1, count=width, bitorder="little")
    return torch.from_numpy(np.packbits(bits.ravel(), bitorder="little"))


def unpack(packed: Tensor, count: int, width: int) -> Tensor:
    """The first ``count`` codes of ``width`` bits, int64."""
    bits = np.unpackbits(packed.numpy(), count=count * width, bitorder="little").reshape(count, width)
    eight_bytes = np.zeros((count, 8), np.uint8)
    eight_bytes[:, : -(-width // 8)] = np.packbits(bits, axis=1, bitorder="little")
    return torch.from_numpy(eight_bytes.view("<i8").reshape(count))


def side_by_side(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Packed tensors of several named parts as one weight's, ``<part>_<kind>``."""
    return {f"{part}_{kind}": tensor for part, tensors in parts.items() for kind, tensor in tensors.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their kinds: the inverse of ``side_by_side``."""
    prefix = f"{part}_"
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
