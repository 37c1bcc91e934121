"""What an allocation is: the order in which the layers of a model get their ranks.

Legend: ``s_1 >= s_2 >= ...`` the singular values of what compression took from a layer, ``(W - Q) C^1/2``.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.config.registry import Method


@dataclass(frozen=True)
class Cost:
    """What the adapter of one layer costs, in bytes or in trained parameters."""

    first: int  # cost of rank 1, with everything that does not depend on the rank
    more: int  # cost of each further rank
    most: int  # the highest rank that the layer can take

    def of(self, rank: int) -> int:
        """The cost of a rank; nothing at rank 0."""
        return self.first + (rank - 1) * self.more if rank else 0

    def step(self, rank: int) -> int:
        """The cost of a rank above that of the rank before it."""
        return self.first if rank == 1 else self.more


@dataclass(frozen=True)
class Layer:
    """What is known of a layer before ranks are spread."""

    cost: Cost  # of its ranks
    spectrum: Tensor  # its singular values [min(out, in)], in falling order
    sensitivity: float = 1.0  # growth of the loss per squared error of the layer's outputs


class Allocation(Method):
    """How a budget of the whole adapter is spread over the layers."""

    uses_gradients: ClassVar[bool] = False
    """Whether it needs each layer's ``sensitivity``, which is measured with gradients on training images."""
    one_by_one: ClassVar[bool] = False
    """Whether ranks with equal keys are given one at a time; otherwise a budget pays for all of them or for none."""

    unit: Literal["bytes", "parameters"] = "bytes"
    """Unit of a budget: bytes of the adapter as stored, or trained parameters."""

    @abstractmethod
    def keys(self, layer: Layer) -> list[float]:
        """When the layer gets each of its ranks, from rank 1: keys that do not fall, the lowest of all layers first.

        The list may be shorter than the layer's highest rank, and is empty if the layer needs no adapter.
        """
