"""Truncated singular value decompositions (Eckart and Young, 1936): how many values are kept, and in which metric."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats

SIZES = ("rank", "energy", "budget")


class Truncation(LayerCompression):
    """A method that keeps the r leading singular values; r by rank, energy or budget, from 1 to ``min(out, in)``."""

    rank: int | None = Field(None, ge=1)
    """r itself; a layer that has fewer singular values keeps all."""
    energy: float | None = Field(None, gt=0, le=1)
    """The least r that keeps this share of ``sum s_i^2``, of the weighted spectrum under metric "activation"."""
    budget: float | None = Field(None, gt=0, le=1)
    """The largest r whose ``r (out + in)`` numbers are at most this share of ``out * in``; 0.5 if nothing is given."""
    metric: Literal["weight", "activation"] = "weight"
    """``[W]_r``, or ``[W C^(1/2)]_r C^(-1/2)``, of all of rank r the one with the least squared output error."""

    @model_validator(mode="before")
    @classmethod
    def _half(cls, value: Any) -> Any:
        bare = isinstance(value, dict) and all(value.get(name) is None for name in SIZES)
        return {**value, "budget": 0.5} if bare else value

    @model_validator(mode="after")
    def _one_size(self) -> "Truncation":
        given = {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}
        if len(given) > 1:
            said = ", ".join(f"{name} = {value}" for name, value in given.items())
            raise ValueError(f"{said}: each alone decides the rank; give one of {', '.join(SIZES)}")
        return self

    @property
    def needs_statistics(self) -> bool:
        return self.metric == "activation"

    @property
    def sized_by_shape(self) -> bool:
        return self.energy is None

    def decomposed(self, weight: Tensor, stats: LayerStats | None) -> tuple[Tensor, Tensor, Tensor]:
        """``U [out, k]``, ``S [k]`` falling, ``V [k, in]``, ``U diag(S) V = W``, float64, ``k = min(out, in)``.

        Under metric "activation" ``S`` is the spectrum of ``W C^(1/2)`` and ``V`` is multiplied by ``C^(-1/2)``.
        """
        if stats is None or not self.needs_statistics:
            U, S, V = torch.linalg.svd(weight.double(), full_matrices=False)
            return U, S, V
        U, S, V = torch.linalg.svd(weight.double() @ stats.root, full_matrices=False)
        return U, S, V @ stats.inverse_root

    def kept_rank(self, values: Tensor, shape: tuple[int, int]) -> int:
        """How many values to keep of a weight of ``shape`` with these singular values, ``[min(out, in)]``, falling."""
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
    """``(U sqrt(S), sqrt(S) V)``, whose product is ``U diag(S) V``."""
    root = S.sqrt()
    return U * root, root[:, None] * V
