"""LoRA (Hu et al., 2021, arXiv:2106.09685): a trained low-rank sum beside a frozen weight."""

import math
from collections.abc import Collection, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from pipeline.adapt.contract import Adapter, Draw
from pipeline.adapt.factor_rounding import DIRECTION_AXIS, pack_factor, rounded_factor, step_of, unpack_factor
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lanes import LaneLayer, Stack
from pipeline.adapt.loaded_layers import add_low_rank, merged_weight
from pipeline.adapt.lora_layers import LoraConv2d, LoraLinear
from pipeline.adapt.low_rank import Factors
from pipeline.compress.contract import CompressedModel
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import ADAPTERS
from pipeline.errors import SpecError

LOW_BITS = {"int4": 4, "int2": 2, "int1": 1}
"""Bits of factors that are trained through their rounding."""
S = TypeVar("S", float, Tensor, float | Tensor)


@ADAPTERS.register("lora")
class Lora(Adapter):
    """Trains a low-rank sum beside each target layer, ``W = Q + s B A``: the first thing to try."""

    scale: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r"
    """``s``; the second is rank-stabilised (Kalajdzievski, 2023, arXiv:2312.03732)."""
    bias: bool = False
    """Also train the biases of the target layers, at no cost in bytes."""
    scales: bool = False
    """Also train a gain for each row of ``Q``; it is merged into the packed scales, at no cost in bytes."""
    factors: Literal["float32", "float16", "int8", "int4", "int2", "int1"] = "float32"
    """How ``A`` and ``B`` are stored, and trials judged; all int have a float32 scale for each of the ``r`` directions.
    In 4 bits or fewer they are trained through their rounding."""

    @property
    def low_rank(self) -> bool:
        return True

    @property
    def scales_weights(self) -> bool:
        return self.scales

    def s(self, alpha: S, rank: int) -> S:
        """The scale of ``B A`` at a rank, as option ``scale`` says."""
        return alpha / (rank if self.scale == "alpha/r" else math.sqrt(rank))

    def factors_of(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``A`` and ``B`` that a layer computes with, from its tensors: those in few bits are rounded."""
        bits = LOW_BITS.get(self.factors)
        A, B = (
            rounded_factor(parameters[name], parameters[f"{name}_scale"], axis, bits) if bits else parameters[name]
            for name, axis in DIRECTION_AXIS.items()
        )
        return A, B

    def stack_factors(self, stack: Stack) -> Factors:
        """``A [t, r, in]``, ``B [t, out, r]`` and ``s [t, 1, 1]`` that a stack of ``t`` lanes computes with."""
        A, B = self.factors_of(stack.parameters)
        return A, B, self.s(stack.alpha, A.shape[1])[:, None, None]

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        """In 4 bits or fewer the factor ``fc1.lora_A`` has the scales ``fc1.lora_A_scale [r]``, which follow it."""
        parameters = {}
        for name, start in starts.items():
            for factor, tensor in zip(DIRECTION_AXIS, start.at_scale(self.s(draw.alpha, len(start.A))), strict=True):
                parameters[f"{name}.{factor}"] = tensor
                if self.factors in LOW_BITS:
                    step = step_of(tensor, DIRECTION_AXIS[factor], LOW_BITS[self.factors])
                    parameters[f"{name}.{factor}_scale"] = step
            bias = getattr(compressed.model.get_submodule(name), "bias", None)
            if self.bias and bias is not None:
                parameters[f"{name}.bias"] = bias.detach().cpu()
            if self.scales:
                parameters[f"{name}.gain"] = torch.ones(len(start.B), dtype=start.B.dtype)
        return parameters

    def is_frozen(self, name: str) -> bool:
        return name.endswith(("lora_A_scale", "lora_B_scale"))

    def after_step(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor], step: int, steps: int
    ) -> None:
        """Fit the scales of factors in few bits to what the factors have become."""
        for name, tensor in parameters.items():
            axis = DIRECTION_AXIS.get(name.rpartition(".")[2])
            if axis is not None and f"{name}_scale" in parameters:
                parameters[f"{name}_scale"].copy_(step_of(tensor, axis, LOW_BITS[self.factors]))

    def layer(self, base: nn.Module, trains: Collection[str], weight: CompressedWeight | None = None) -> LaneLayer:
        layer_type = LoraConv2d if isinstance(base, nn.Conv2d) else LoraLinear
        return layer_type(base, trains, self.stack_factors)

    def loaded_layer(self, base: nn.Module, parameters: Mapping[str, Tensor], alpha: float) -> nn.Module:
        return add_low_rank(base, self._as_computed(parameters), self.s(alpha, len(parameters["lora_A"])))

    def merged(self, weight: Tensor, parameters: Mapping[str, Tensor], alpha: float | Tensor) -> Tensor:
        return merged_weight(weight, self._as_computed(parameters), self.s(alpha, len(parameters["lora_A"])))

    def _as_computed(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        A, B = self.factors_of(parameters)
        return {**parameters, "lora_A": A, "lora_B": B}

    def to_tensors(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With int8, the factor ``fc1.lora_A`` has a scale for each of its directions, ``fc1.lora_A_scale [r]``.

        In fewer bits the directions are packed, each in whole bytes: ``[r, ceil(in b / 8)]``, ``[r, ceil(out b / 8)]``.
        """
        tensors = {}
        for name, tensor in parameters.items():
            axis = DIRECTION_AXIS.get(name.rpartition(".")[2])
            if axis is None or self.factors == "float32":
                tensors[name] = tensor
            elif self.factors == "float16":
                tensors[name] = tensor.half()
            elif self.factors in LOW_BITS:
                tensors[name] = pack_factor(tensor, parameters[f"{name}_scale"], axis, LOW_BITS[self.factors])
            else:  # q = round(127 a / max |a|)
                scale = tensor.abs().amax(axis, keepdim=True) / 127
                tensors[name] = (tensor / scale.where(scale > 0, 1)).round().to(torch.int8)
                tensors[f"{name}_scale"] = scale.squeeze(axis)
        return tensors

    def from_tensors(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The inverse of ``to_tensors``; packed factors become float32, and those in few bits take shapes ``like``."""
        parameters = {}
        bits = LOW_BITS.get(self.factors)
        for name, tensor in tensors.items():
            axis = DIRECTION_AXIS.get(name.rpartition(".")[2])
            if bits and axis is not None:
                count = (like or {})[name].shape[axis]
                parameters[name] = unpack_factor(tensor, tensors[f"{name}_scale"], axis, bits, count)
            elif axis is not None and f"{name}_scale" in tensors:
                parameters[name] = tensor * tensors[f"{name}_scale"].unsqueeze(axis)
            elif bits or not name.endswith(("lora_A_scale", "lora_B_scale")):
                parameters[name] = tensor.float() if tensor.dtype == torch.float16 and axis is not None else tensor
        return parameters

    def absorb(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, CompressedWeight], Mapping[str, Tensor]]:
        scaled = {}
        for name, weight in weights.items():
            gain = parameters.get(f"{name}.gain")
            try:
                scaled[name] = weight if gain is None else weight.scaled_rows(gain)
            except ValueError as error:
                raise SpecError(f"adapter.scales = true, but layer '{name}' cannot: {error}") from None
        return scaled, {key: tensor for key, tensor in parameters.items() if not key.endswith(".gain")}

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        return rank * sum(shape)
