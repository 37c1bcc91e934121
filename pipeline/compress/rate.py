"""What a code costs where codes are entropy-coded, and how much error a bit of it must save.

Entropy-constrained quantisation (Chou, Lookabaugh and Gray, 1989, IEEE Trans. ASSP 37:31) chooses codes, then their
lengths, then the values that they stand for, in turn, each for the least ``error + lambda bits``; no step makes that
sum larger.
"""

import math

import torch
from torch import Tensor

from pipeline.compress.kmeans import means, nearest_centroids

ROUNDS, SETTLED = 20, 1e-3
"""Rounds of codes, lengths and values at most; the share of codes below which another round would change too few."""
LEAST_PRICE = 1e-30
"""Of a bit where all weights are zero: lengths may be infinite."""
BEST_STEP = 6 / math.log(2)
"""The squared step of an even grid, in units of ``lambda``, from which neither a finer nor a coarser one gains: a step
``s`` leaves an error of ``s^2 / 12``, and a bit more divides it by 4."""


def code_lengths(codes: Tensor, count: int) -> Tensor:
    """``-log2 p`` of each of ``count`` codes, float64 ``[count]``, ``p`` their shares in ``codes``; infinite if unused.

    >>> code_lengths(torch.tensor([0, 0, 1, 3]), 4).tolist()
    [1.0, 2.0, inf, 2.0]
    """
    occurrences = torch.bincount(codes.flatten().long(), minlength=count).double()
    return -(occurrences / occurrences.sum()).log2()


def rated_kmeans(points: Tensor, centroids: Tensor, weights: Tensor | None, rate: float) -> tuple[Tensor, Tensor]:
    """Codes ``[n]`` and centroids of the least ``error + lambda bits``.

    Args:
        points: ``[n, d]``.
        centroids: Those to begin with, ``[k, d]``; rare ones may lose all members.
        weights: ``[n, d]``; coordinates of weight 0 do not count.
        rate: ``lambda``, the error that a bit must save, in units of the mean of ``M_ij X_ij^2``.
    """
    codes, C = _alternated(points, centroids, weights, rate, moving=True)
    order = C[:, 0].argsort(stable=True)
    return order.argsort()[codes], C[order].to(points.dtype)


def rated_codes(points: Tensor, centroids: Tensor, weights: Tensor | None, rate: float) -> Tensor:
    """Codes ``[n]`` of the least ``error + lambda bits`` as of ``rated_kmeans``, for centroids that stay."""
    return _alternated(points, centroids, weights, rate, moving=False)[0]


def _alternated(
    points: Tensor, centroids: Tensor, weights: Tensor | None, rate: float, *, moving: bool
) -> tuple[Tensor, Tensor]:
    """Codes and centroids after rounds of lengths, codes and, where they are moving, centroids."""
    X, M = points.float(), (torch.ones_like(points) if weights is None else weights).float()
    bit_price = (rate * (M * X.square()).sum() / M.count_nonzero().clamp_min(1)).clamp_min(LEAST_PRICE)
    C = centroids.float()
    codes = nearest_centroids(X, C, M)
    for _ in range(ROUNDS):
        C, before = means(X, codes, C, M) if moving else C, codes
        codes = nearest_centroids(X, C, M, bit_price * code_lengths(codes, len(C)).to(X))
        if float((codes != before).float().mean()) < SETTLED:
            break
    return codes, C
