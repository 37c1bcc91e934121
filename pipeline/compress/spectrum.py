"""Singular values of matrices and of low-rank products, and what is read from them; all in float64.

Legend: ``s_j`` the singular values in descending order, ``p_j = s_j / sum s`` their shares.
"""

import torch
from torch import Tensor


def singular_values(matrix: Tensor) -> Tensor:
    """``s`` of ``matrix [out, in]``: ``[min(out, in)]``, descending, on the CPU; a ``LinAlgError`` if not finite."""
    if not matrix.isfinite().all():  # some devices would return NaN
        raise torch.linalg.LinAlgError("it holds NaN or infinite values")  # type: ignore[attr-defined]
    values: Tensor = torch.linalg.svdvals(matrix.detach().double())
    return values.cpu()


def product_singular_values(B: Tensor, A: Tensor, s: float = 1.0) -> Tensor:
    """The first ``min(out, r, in)`` singular values of ``s B A``, for ``B [out, r]`` and ``A [r, in]``; the rest are 0.

    The product is not computed: with ``B = Q R`` and ``A^T = P L`` they are those of ``s R L^T``.
    """
    R, L = (torch.linalg.qr(factor.detach().double(), mode="r").R for factor in (B, A.mT))
    return singular_values(s * R @ L.mT)


def shares(values: Tensor) -> Tensor:
    """``p``, singular values scaled to sum to 1; all zero for a zero matrix."""
    total = values.sum()
    return values / total if total > 0 else torch.zeros_like(values)


def effective_rank(values: Tensor) -> float:
    """``exp(-sum p ln p)`` of singular values (Roy and Vetterli, 2007); 0 for a zero matrix.

    It does not depend on the scale of the matrix, and is 1 for any matrix of rank one.

    >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0])), 6)
    3.0
    """
    p = shares(values)
    return float(torch.special.entr(p).sum().exp()) if p.any() else 0.0
