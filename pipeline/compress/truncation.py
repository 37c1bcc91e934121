"""Truncated singular value decompositions (Eckart and Young, 1936), for compressions and for inits."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats

RANK_OPTIONS = ("rank", "energy", "budget")


class Truncation(LayerCompression):
    """A method that keeps the r largest singular values, ``1 <= r <= min(out, in)``."""

    rank: int | None = Field(None, ge=1)
    """r itself; a layer with fewer singular values keeps all of them."""
    energy: float | None = Field(None, gt=0, le=1)
    """The least r that keeps this share of ``sum s_i^2`` (of ``W C^(1/2)`` if metric is "activation")."""
    budget: float | None = Field(None, gt=0, le=1)
    """The largest r with ``r (out + in) <= budget * out * in``; 0.5 if none of the three options is given."""
    metric: Literal["weight", "activation"] = "weight"
    """``[W]_r``, or ``[W C^(1/2)]_r C^(-1/2)``, the rank-r matrix with the least squared error of the outputs."""

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, value: Any) -> Any:
        none_given = isinstance(value, dict) and all(value.get(name) is None for name in RANK_OPTIONS)
        return {**value, "budget": 0.5} if none_given else value

    @model_validator(mode="after")
    def _at_most_one(self) -> "Truncation":
        given = {name: getattr(self, name) for name in RANK_OPTIONS if getattr(self, name) is not None}
        if len(given) > 1:
            listed = ", ".join(f"{name} = {value}" for name, value in given.items())
            raise ValueError(f"{listed}: each alone decides the rank; give one of {', '.join(RANK_OPTIONS)}")
        return self

    @property
    def needs_statistics(self) -> bool:
        return self.metric == "activation"

    @property
    def sized_by_shape(self) -> bool:
        return self.energy is None

    def decompose(self, weight: Tensor, stats: LayerStats | None) -> tuple[Tensor, Tensor, Tensor]:
        """The whole decomposition ``U diag(S) V = W``: ``U [out, k]``, ``S [k]`` descending and ``V [k, in]``, float64.

        With metric "activation", ``S`` are the singular values of ``W C^(1/2)``, and ``V`` contains ``C^(-1/2)``.
        """
        if stats is None or not self.needs_statistics:
            U, S, V = torch.linalg.svd(weight.double(), full_matrices=False)
            return U, S, V
        root, inverse_root = stats.roots
        U, S, V = torch.linalg.svd(weight.double() @ root, full_matrices=False)
        return U, S, V @ inverse_root

    def truncate(self, weight: Tensor, stats: LayerStats | None) -> tuple[Tensor, Tensor, Tensor]:
        """The leading part of ``decompose``: ``U [out, r]``, ``S [r]`` and ``V [r, in]``."""
        U, S, V = self.decompose(weight, stats)
        r = self.kept_rank(S, (weight.shape[0], weight.shape[1]))
        return U[:, :r], S[:r], V[:r]

    def kept_rank(self, values: Tensor, shape: tuple[int, int]) -> int:
        """The rank r for a weight of ``shape`` with the singular values ``values``, in descending order."""
        out, inner = shape
        if self.rank is not None:
            r = self.rank
        elif self.energy is not None:
            energies = values.square().cumsum(0)
            r = 1 + int((energies < self.energy * energies[-1]).sum())
        elif self.budget is not None:
            r = int(self.budget * out * inner / (out + inner))
        return max(1, min(r, out, inner))


def balanced(U: Tensor, S: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """``(U sqrt(S), sqrt(S) V)``, ``[out, r]`` and ``[r, in]``, whose product is ``U diag(S) V``."""
    root = S.sqrt()
    return U * root, root[:, None] * V


def best_product(matrix: Tensor, rank: int, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the best approximation ``B A = [M]_r`` (Eckart and Young, 1936), with ``sqrt(S)`` in each of them.

    A row of ``A`` is never zero, because then neither factor would ever get a gradient. Where a singular value is
    zero, the row of ``A`` is its singular vector with length 1, and the column of ``B`` is zero.

    Args:
        matrix: ``M [out, in]``.
        rank: ``r <= min(out, in)``.
        fallback: ``[out, in]``, whose singular vectors are used for ``A`` if ``M`` is zero; those of the weight lie in
            the inputs that the layer uses.

    Returns:
        ``A [r, in]`` and ``B [out, r]``, float64.
    """
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    if not S.any():
        Vh = torch.linalg.svd(fallback.double(), full_matrices=False).Vh
    root = S[:rank].sqrt()
    return torch.where(root > 0, root, 1)[:, None] * Vh[:rank], U[:, :rank] * root
