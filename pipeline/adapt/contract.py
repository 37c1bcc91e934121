"""What an adapter and its start are.

Legend: ``r`` rank, ``A [r, in]`` and ``B [out, r]`` the factors, ``s`` the scale,
``Q`` the dense form of the compressed weight; the adapted weight is ``Q + s B A``.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.adapt.lanes import LaneLayer
from pipeline.compress.contract import CompressedWeight, LayerStats
from pipeline.registry import Method


@dataclass(frozen=True)
class Start:
    """Where the factors of one layer start.

    Args:
        A: ``[r, in]``.
        B: ``[out, r]``.
        residual: Whether ``B A`` is a product that ``s B A`` must equal at any ``s``.
        base: The base that an init moved, compressed like any other; none where it stays the combination's.
    """

    A: Tensor
    B: Tensor
    residual: bool = False
    base: CompressedWeight | None = None

    def at_scale(self, s: float) -> tuple[Tensor, Tensor]:
        """``A`` and ``B`` for the scale ``s``: those of a residual start are divided by ``sqrt(s)`` each."""
        root = math.sqrt(s) if self.residual else 1.0
        return self.A / root, self.B / root

    def prefix(self, rank: int) -> "Start":
        """The start of a lower rank, for inits whose ranks are prefixes of one decomposition."""
        return Start(self.A[:rank], self.B[:, :rank], self.residual, self.base)


class Init(Method):
    """A function from a layer to the start of its adapter."""

    nested: ClassVar[bool] = False
    """Whether the start draws nothing and every rank is a prefix of the highest: then it is computed once."""

    @property
    def needs_statistics(self) -> bool:
        """Whether ``stats`` must hold the layer's second moment."""
        return False

    @abstractmethod
    def start(
        self,
        weight: Tensor,
        compressed: CompressedWeight,
        rank: int,
        stats: Sequence[LayerStats],
        generator: torch.Generator,
    ) -> Start:
        """Start values at ``rank`` for ``weight [out, in]`` compressed to ``compressed``; ``rank <= min(out, in)``."""


class Adapter(Method):
    """What is trained on top of a compressed model, and how it enters the model's layers."""

    @abstractmethod
    def begin(self, model: nn.Module, starts: Mapping[str, Start], alpha: float) -> dict[str, Tensor]:
        """All that one lane trains, by name, at its start values: nothing else will change.

        Args:
            model: The compressed model.
            starts: The start of each target layer.
            alpha: The lane's alpha.
        """

    @abstractmethod
    def layer(self, base: nn.Module, trains: Collection[str]) -> LaneLayer:
        """How a layer computes with lanes.

        Args:
            base: The layer of the compressed model; it stays as it is.
            trains: Names, within the layer, of what ``begin`` names there.
        """

    @abstractmethod
    def macs(self, shape: tuple[int, int], rank: int) -> int:
        """Multiply-accumulates that it adds to a layer ``(out, in)``, for one vector."""


def clipped_rank(rank: int, shape: tuple[int, int]) -> int:
    """The rank that a layer ``(out, in)`` can take: a 10-class head takes 10."""
    return min(rank, *shape)


def adapter_parameters(
    adapter: Adapter, model: nn.Module, shapes: Mapping[str, tuple[int, int]], rank: int
) -> dict[str, int]:
    """How many numbers an adapter trains, by the name of each tensor, before any start is computed."""
    starts = {
        name: Start(torch.zeros(r, shape[1]), torch.zeros(shape[0], r))
        for name, shape in shapes.items()
        for r in [clipped_rank(rank, shape)]
    }
    return {name: tensor.numel() for name, tensor in adapter.begin(model, starts, alpha=1.0).items()}
