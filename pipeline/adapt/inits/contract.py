"""The contract of an init, which gives the start values of the factors of low-rank adapters.

Legend: ``r`` rank, ``A [r, in]`` and ``B [out, r]`` the factors, ``s`` the scale, ``Q`` the dense form of the
compressed weight; the adapted weight is ``Q + s B A``.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.compress.contract import LayerStats
from pipeline.compress.model_stats import mean_stats
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import Method


def left_of(weight: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """``W - B A``, computed in float64, in the dtype of ``weight [out, in]``."""
    return (weight.double() - B.double() @ A.double()).to(weight.dtype)


@dataclass(frozen=True)
class Start:
    """Start values of one layer's factors."""

    A: Tensor  # [r, in]
    B: Tensor  # [out, r]
    residual: bool = False  # whether `s B A` must equal the product of these factors at any scale `s`
    base: CompressedWeight | None = None  # the compressed weight that they belong to, if the init moved the base

    def at_scale(self, s: float) -> tuple[Tensor, Tensor]:
        """``A`` and ``B`` for the scale ``s``; the factors of a residual start are divided by ``sqrt(s)`` each."""
        root = math.sqrt(s) if self.residual else 1.0
        return self.A / root, self.B / root

    def coded(self, weight: Tensor, *, relaxed: bool = False) -> Tensor:
        """The matrix ``[out, in]`` that codes stand for, ``W`` or what ``B A`` leaves of it, ``W - B A``.

        It is the latter where the init moved the base; and where the layer is ``relaxed``, computing with the matrix as
        it is and not with its codes, and ``B A`` stands for what the codes lose.
        """
        left = self.base is not None or (relaxed and self.residual)
        return left_of(weight, self.A, self.B) if left else weight

    def prefix(self, rank: int) -> "Start":
        """The start at a lower rank, for nested inits."""
        return Start(self.A[:rank], self.B[:, :rank], self.residual, self.base)


@dataclass(frozen=True)
class AdaptedLayer:
    """What an init knows about a layer."""

    weight: Tensor  # the uncompressed weight, [out, in]
    compressed: CompressedWeight
    compress: Callable[[Tensor], CompressedWeight]  # compresses any matrix [out, in] in the same way
    stats: Sequence[LayerStats] = ()  # statistics of the inputs, one per group; empty unless the init needs them

    @property
    def residual(self) -> Tensor:
        """``W - Q``, float64 ``[out, in]``."""
        return self.weight.double() - self.compressed.dense().double()

    @property
    def shared_stats(self) -> LayerStats:
        """The mean statistics of all groups: they share ``A``, and it has to fit the inputs of every group."""
        return mean_stats(self.stats)

    def start(self, A: Tensor, B: Tensor, *, residual: bool = True, base: CompressedWeight | None = None) -> Start:
        """A start with the factors rounded to the dtype of the weight."""
        return Start(A.to(self.weight.dtype), B.to(self.weight.dtype), residual, base)

    def compress_rest(self, A: Tensor, B: Tensor) -> CompressedWeight:
        """``compress(W - B A)``, the base of an init that moves it."""
        return self.compress(left_of(self.weight, A, B))


def kaiming_uniform(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """A random matrix of ``shape`` ``(out, in)``, Kaiming-uniform: ``U(-1/sqrt(in), 1/sqrt(in))``."""
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)


class Init(Method):
    """A function from a layer to the start values of its factors."""

    nested: ClassVar[bool] = False
    """Whether nothing is drawn and the start at every rank is a prefix of that at the highest, computed only once."""
    moves_base: ClassVar[bool] = False
    """Whether ``Start.base`` is given. Each (rank, init) then has its own base, starts and frozen products."""
    needs_statistics: ClassVar[bool] = False
    """Whether ``AdaptedLayer.stats`` must hold the second moments of the layer's inputs."""

    @abstractmethod
    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        """Start values of one layer for ``1 <= rank <= min(out, in)``; random values come from ``generator`` alone."""
