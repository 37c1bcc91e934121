"""Small codes to bytes and back."""

import numpy as np
import torch
from torch import Tensor


def packed_bits(count: int, width: int) -> int:
    """Bits that ``count`` codes of ``width`` bits take once padded to whole bytes."""
    return 8 * -(-count * width // 8)


def pack(codes: Tensor, width: int) -> Tensor:
    """Pack integers below ``2 ** width``, lowest bit first, into a uint8 tensor of ``ceil(n * width / 8)`` bytes."""
    bits = codes.flatten().to(torch.int32).numpy()[:, None] >> np.arange(width, dtype=np.int32) & 1
    return torch.from_numpy(np.packbits(bits.astype(bool).ravel(), bitorder="little"))


def unpack(packed: Tensor, count: int, width: int) -> Tensor:
    """The first ``count`` codes of ``width`` bits, int64."""
    bits = np.unpackbits(packed.numpy(), count=count * width, bitorder="little").reshape(count, width)
    return torch.from_numpy(bits.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64)))
