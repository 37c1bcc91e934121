"""The contract of an adapter, which is trained on top of a compressed model.

Legend: ``r`` rank, ``A [r, in]`` and ``B [out, r]`` the factors, ``s`` the scale, ``Q`` the dense form of the
compressed weight; the adapted weight is ``Q + s B A``. A *lane* is one trial of several that train together.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lanes import Adapted, LaneLayer, SeparateLayer, Stack
from pipeline.compress.contract import CompressedModel
from pipeline.compress.sizes import StoredModel
from pipeline.compress.small_tensors import round_small
from pipeline.compress.weight import CompressedWeight, DenseWeight
from pipeline.config.combination_spec import PLAIN, StorageSpec
from pipeline.config.fields import Range
from pipeline.config.registry import Method
from pipeline.errors import SpecError


@dataclass(frozen=True)
class Draw:
    """The values of a trial that decide where its adapter starts."""

    alpha: float = 1.0  # alpha of low-rank adapters
    extra: Mapping[str, float] = field(default_factory=dict)  # a value for each name in `Adapter.space`
    seed: int = 0  # of all values that the adapter draws itself


class Adapter(Method):
    """What is trained on top of a compressed model, and how the model's layers compute with it.

    Each tensor that an adapter trains has a name: that of the model's parameter that it replaces, such as ``fc1.bias``,
    or a new one in the layer that uses it, such as ``fc1.lora_A``.
    """

    trains: ClassVar[bool] = True
    """Whether it trains anything; an adapter that does not has one trial."""

    @property
    def low_rank(self) -> bool:
        """Whether it has a rank, an init and an alpha; an adapter without them is searched in a single cell."""
        return False

    @property
    def scales_weights(self) -> bool:
        """Whether ``absorb`` multiplies the scales of compressed weights, which are not judged as they are stored."""
        return False

    @property
    def space(self) -> Mapping[str, Range]:
        """Ranges of the adapter's own values to search, by name, beside rank, init, alpha and the optimizer's."""
        return {}

    @abstractmethod
    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        """All tensors of one lane by name, with their start values; training changes no other tensor.

        ``starts`` holds the start of each adapted layer; it is empty unless the adapter is ``low_rank``.

        Raises:
            SpecError: The adapter cannot be used with this model.
        """

    def is_frozen(self, name: str) -> bool:
        """Whether a tensor of ``begin`` differs between lanes but gets no gradient; ``after_step`` may change it."""
        return False

    def equal_tensors(self, weights: Mapping[str, CompressedWeight]) -> Sequence[Sequence[str]]:
        """Names of tensors of ``begin`` that ``after_step`` keeps equal, in groups, each of which counts as one."""
        return ()

    def layer(self, base: nn.Module, trains: Collection[str], weight: CompressedWeight | None = None) -> LaneLayer:
        """A layer ``base`` as it computes with lanes.

        ``trains`` names, within the layer, the tensors of ``begin``; ``weight`` is its compressed weight, if any.
        """
        return SeparateLayer(base)

    def after_step(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor], step: int, steps: int
    ) -> None:
        """Change tensors of stacked lanes in place after optimizer step number ``step``, from 1, of ``steps``.

        ``parameters`` are all tensors of ``begin``, ``[T, ...]``. By default nothing is changed.
        """

    def penalty(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor], share: float
    ) -> Tensor | None:
        """What the loss of each lane is increased by in training, ``[T]``, or ``None``, as by default.

        ``parameters`` are all tensors of ``begin``, ``[T, ...]``; ``share`` is that of the training that is done.
        """
        return None

    def loaded_layer(self, base: nn.Module, parameters: Mapping[str, Tensor], alpha: float) -> nn.Module:
        """A layer ``base`` as a loaded model computes with what ``absorb`` left for it, by name within the layer.

        It should be a plain module, whose ``parameters`` are its own; it may be ``base``, changed. By default it is the
        layer of training with one lane, which takes batches of images alone.
        """
        lane = {name: tensor[None] for name, tensor in parameters.items()}
        return Adapted(self.layer(base, parameters.keys()), [Stack(lane, torch.tensor([alpha]))])

    def merged(self, weight: Tensor, parameters: Mapping[str, Tensor], alpha: float | Tensor) -> Tensor:
        """The weight ``[out, in]`` with which a bare layer gives the outputs of ``loaded_layer``.

        It has gradients, and ``torch.vmap`` can be applied to it; ``alpha`` may be a tensor without axes.

        Raises:
            SpecError: There is no such weight, as by default.
        """
        raise SpecError(
            f"adapter '{self.name}' adds {', '.join(parameters)} to a layer and does not say how they are merged into "
            f"its weight; load the checkpoint without merge"
        )

    def to_tensors(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The packed tensors of what ``absorb`` leaves, by name in the file; leading axes of lanes are allowed."""
        return dict(parameters)

    def from_tensors(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The inverse of ``to_tensors``; ``like`` has the shapes of parameters that packed tensors do not tell."""
        return dict(tensors)

    def rounded(
        self, parameters: Mapping[str, Tensor], storage: StorageSpec = PLAIN, lanes: int = 0
    ) -> Mapping[str, Tensor]:
        """Parameters as a file of this storage gives them back; the same object if equal.

        They are those of a lane, or of several, stacked on one axis of ``lanes``.
        """
        unpacked = self.from_tensors(round_small(self.to_tensors(parameters), storage, lanes), parameters)
        if all(unpacked[name] is tensor for name, tensor in parameters.items()):
            return parameters
        return {name: unpacked[name].to(tensor.dtype) for name, tensor in parameters.items()}

    def absorb(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, CompressedWeight], Mapping[str, Tensor]]:
        """All weights with the trained tensors that can become part of them, and the parameters left to store beside.

        By default a weight that was trained as a whole replaces the compressed one.
        """
        whole = {name for name in weights if f"{name}.weight" in parameters}
        dense = {name: DenseWeight(parameters[f"{name}.weight"].flatten(1)) for name in whole}
        left = {key: tensor for key, tensor in parameters.items() if key.removesuffix(".weight") not in whole}
        return {**weights, **dense}, left

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        """Multiply-accumulates that it adds to a layer of ``shape`` ``(out, in)`` per input vector."""
        return 0


def blank(adapter: Adapter, compressed: CompressedModel, ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """The tensors of ``Adapter.begin`` with zero factors of these ranks: the shapes without computing a start."""
    starts = {}
    for name, r in ranks.items():
        out, inner = compressed.weights[name].shape
        starts[name] = Start(torch.zeros(r, inner, dtype=torch.float32), torch.zeros(out, r, dtype=torch.float32))
    return adapter.begin(compressed, starts if adapter.low_rank else {}, Draw())


def trainable_counts(
    adapter: Adapter, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor]
) -> dict[str, int]:
    """The number of trainable parameters in each tensor of ``Adapter.begin``, by name; equal ones under the first."""
    uncounted = {name for names in adapter.equal_tensors(weights) for name in names[1:]}
    uncounted |= {name for name in parameters if adapter.is_frozen(name)}
    return {name: tensor.numel() for name, tensor in parameters.items() if name not in uncounted}


def stored_model(adapter: Adapter, compressed: CompressedModel, parameters: Mapping[str, Tensor]) -> StoredModel:
    """What an exported file holds of a compressed model with the trained ``parameters`` of one lane."""
    weights, left = adapter.absorb(compressed.weights, parameters)
    return StoredModel(replace(compressed, weights=weights), adapter.to_tensors(left))
