"""What an adapter and its start are.

Legend: ``r`` rank, ``A [r, in]`` and ``B [out, r]`` the factors, ``s`` the scale,
``Q`` the dense form of the compressed weight; the adapted weight is ``Q + s B A``.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.adapt.lanes import LaneLayer, OwnLayer
from pipeline.compress.contract import CompressedModel, LayerStats
from pipeline.compress.weight import CompressedWeight, DenseWeight
from pipeline.config.registry import Method
from pipeline.config.spec import Range


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


@dataclass(frozen=True)
class AdaptedLayer:
    """What an init is told of a layer.

    Args:
        weight: What the layer would compute with were it not compressed, ``[out, in]``.
        compressed: What it computes with.
        compress: How the one came from the other, for any matrix ``[out, in]``.
        stats: Statistics of its inputs, one for each group; there only for inits that need them.
    """

    weight: Tensor
    compressed: CompressedWeight
    compress: Callable[[Tensor], CompressedWeight]
    stats: Sequence[LayerStats] = ()

    @property
    def residual(self) -> Tensor:
        """``W - Q``, float64."""
        return self.weight.double() - self.compressed.dense().double()


class Init(Method):
    """A function from a layer to the start of its adapter."""

    nested: ClassVar[bool] = False
    """Whether the start draws nothing and every rank is a prefix of the highest: then it is computed once."""
    moves_base: ClassVar[bool] = False
    """Whether ``Start.base`` is given: base and frozen product are then of each (rank, init), and so are all starts."""

    @property
    def needs_statistics(self) -> bool:
        """Whether ``AdaptedLayer.stats`` must hold the second moments of the layer's inputs."""
        return False

    @abstractmethod
    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        """Start values of one layer.

        Args:
            layer: The layer.
            rank: ``r <= min(out, in)``.
            generator: Of all that is drawn.
        """


@dataclass(frozen=True)
class Draw:
    """What a trial was drawn beside its optimizer: the values that an adapter starts with.

    Args:
        alpha: Of low-rank adapters.
        extra: Of each name in ``Adapter.space``.
        seed: Of all that the adapter draws itself.
    """

    alpha: float = 1.0
    extra: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


class Adapter(Method):
    """What is trained on top of a compressed model, and how it enters the model's layers.

    Each tensor that it names is either a parameter of the model, ``fc1.bias``, in whose place it stands, or its own,
    ``fc1.lora_A``.
    """

    low_rank: ClassVar[bool] = False
    """Whether it has a rank, an init and an alpha; one that has not is searched in a single cell."""
    trains: ClassVar[bool] = True
    """Whether anything is trained at all; what is not has one trial."""

    @property
    def space(self) -> Mapping[str, Range]:
        """What is searched for it beside rank, init, alpha and the optimizer's values, by name."""
        return {}

    @abstractmethod
    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        """All tensors of one lane, by name, at their start values: nothing else will change.

        Args:
            compressed: The compressed model.
            starts: The start of each target layer; none where it is not ``low_rank``.
            draw: The lane's own values.
        """

    def is_frozen(self, name: str) -> bool:
        """Whether a tensor of ``begin`` is the lane's own and yet never trained."""
        return False

    def layer(self, base: nn.Module, trains: Collection[str]) -> LaneLayer:
        """How a layer computes with lanes; here as ever, with the lane's own parameters in the place of its own.

        Args:
            base: The layer of the compressed model; it stays as it is.
            trains: Names, within the layer, of what ``begin`` names there.
        """
        return OwnLayer(base)

    def rounded(self, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A lane's tensors, or stacks of lanes' with an axis before, as they come back from a file."""
        return parameters

    def to_tensors(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The packed form of what ``absorb`` left, by name in a file; a parameter of the model keeps its name."""
        return dict(parameters)

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What ``to_tensors`` packed."""
        return dict(tensors)

    def absorb(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, CompressedWeight], Mapping[str, Tensor]]:
        """Move into the compressed weights what may become part of them; what is left stands beside them.

        Here a weight that was trained whole takes the place of the compressed one.
        """
        whole = {name for name in weights if f"{name}.weight" in parameters}
        dense = {name: DenseWeight(parameters[f"{name}.weight"].flatten(1)) for name in whole}
        left = {key: tensor for key, tensor in parameters.items() if key.removesuffix(".weight") not in whole}
        return {**weights, **dense}, left

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        """Multiply-accumulates that it adds to a layer ``(out, in)``, for one vector."""
        return 0


def clipped_rank(rank: int, shape: tuple[int, int]) -> int:
    """The rank that a layer ``(out, in)`` can take: a 10-class head takes 10."""
    return min(rank, *shape)


def blank(adapter: Adapter, compressed: CompressedModel, ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """Tensors of the shapes that an adapter begins with, before any start is computed.

    Args:
        adapter: What is trained.
        compressed: The compressed model.
        ranks: The rank of each target layer that is adapted.
    """
    shapes = {name: compressed.weights[name].shape for name in ranks}
    starts = {
        name: Start(torch.zeros(rank, shapes[name][1]), torch.zeros(shapes[name][0], rank))
        for name, rank in ranks.items()
    }
    return adapter.begin(compressed, starts if adapter.low_rank else {}, Draw())


def trained_numbers(adapter: Adapter, parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """How many numbers are trained, by the name of each tensor."""
    return {name: tensor.numel() for name, tensor in parameters.items() if not adapter.is_frozen(name)}


def packed(
    adapter: Adapter, compressed: CompressedModel, parameters: Mapping[str, Tensor]
) -> tuple[CompressedModel, dict[str, int]]:
    """What is stored of a lane: the compressed model with what its weights absorbed, and bits beside it by layer.

    A trained parameter of the model takes the place of the frozen one, and no bits.
    """
    weights, left = adapter.absorb(compressed.weights, parameters)
    own, bits = compressed.model.state_dict().keys(), dict[str, int]()
    for key, tensor in adapter.to_tensors(left).items():
        if key not in own:
            layer = key.rpartition(".")[0]
            bits[layer] = bits.get(layer, 0) + 8 * tensor.nbytes
    return replace(compressed, weights=weights), bits
