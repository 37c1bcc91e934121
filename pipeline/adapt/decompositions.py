"""Linear algebra that several inits share; decompositions are in float64."""

import math

import torch
from torch import Tensor


def best_product(matrix: Tensor, rank: int, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the best approximation ``B A = [M]_r`` (Eckart and Young, 1936), with ``sqrt(S)`` in each of them.

    A row of ``A`` is never zero, because then neither factor would ever get a gradient. Where a singular value is
    zero, the row of ``A`` is its singular vector with length 1, and the column of ``B`` is zero.

    Args:
        matrix: ``M [out, in]``.
        rank: ``r <= min(out, in)``.
        fallback: ``[out, in]``. Its singular vectors are used for ``A`` if ``M`` is zero and has none of its own; those
            of the weight, unlike arbitrary ones, lie in the inputs that the layer uses.

    Returns:
        ``A [r, in]`` and ``B [out, r]``, float64.
    """
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    if not S.any():
        Vh = torch.linalg.svd(fallback.double(), full_matrices=False).Vh
    root = S[:rank].sqrt()
    return torch.where(root > 0, root, 1)[:, None] * Vh[:rank], U[:, :rank] * root


def kaiming_uniform(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """A random ``[out, in]`` matrix, ``U(-1/sqrt(in), 1/sqrt(in))``: Kaiming-uniform with ``a = sqrt(5)``.

    Args:
        shape: ``(out, in)``.
        dtype: Of the matrix.
        generator: The source of the random values.
    """
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)
