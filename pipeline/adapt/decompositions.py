"""The linear algebra that starts share; products in float64, where they are decomposed."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.compress.contract import LayerStats


def best_product(matrix: Tensor, rank: int, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """``B A = [M]_r``, the nearest of its rank (Eckart and Young, 1936), with ``sqrt(S)`` on both sides.

    ``A`` is never zero, or neither factor would ever have a gradient: where a singular value is, its direction stays in
    ``A`` with length 1, and the column of ``B`` is zero.

    Args:
        matrix: ``M [out, in]``.
        rank: ``r``.
        otherwise: Whose directions stand in ``A`` where ``M`` is all zero and has none; the weight knows which inputs
            are alive.

    Returns:
        ``A [r, in]`` and ``B [out, r]``, float64.
    """
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    if not S.any():
        Vh = torch.linalg.svd(otherwise.double(), full_matrices=False).Vh
    root = S[:rank].sqrt()
    return torch.where(root > 0, root, 1)[:, None] * Vh[:rank], U[:, :rank] * root


def kaiming(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """``U(-1/sqrt(in), 1/sqrt(in))`` of ``[out, in]``, as Kaiming-uniform with a = sqrt(5) is."""
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)


def of_all_groups(stats: Sequence[LayerStats]) -> LayerStats:
    """Statistics of the inputs of every group of a layer, each group as one of many samples: the mean of their C.

    The groups of a convolution share ``A``, so that what is best for it is best for all of their inputs together.
    """
    if len(stats) == 1:
        return stats[0]
    return LayerStats(torch.stack([own.second_moment for own in stats]).mean(0))
