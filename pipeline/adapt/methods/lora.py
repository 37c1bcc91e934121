"""LoRA (Hu et al., 2021, arXiv:2106.09685): a trained low-rank sum beside a frozen weight.

Legend: ``T`` lanes, ``n`` images, ``r`` rank, ``A [T, r, in]`` and ``B [T, out, r]`` the factors, ``s [T]`` the scale.
``B A`` is never computed, because it would be as large as the weight for every lane.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.contract import Adapter, Draw, Start
from pipeline.adapt.factor_rounding import DIRECTION_AXIS, pack_factor, rounded_factor, step_of, unpack_factor
from pipeline.adapt.lanes import LaneLayer, Stack, joined, split_by_stack, with_parameters
from pipeline.adapt.loaded_layers import add_low_rank, merged_weight
from pipeline.adapt.low_rank import Factors, adapted_linear, add_to_shared
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import group_count, weight_matrix
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import ADAPTERS
from pipeline.errors import SpecError


class LowRankLayer(LaneLayer):
    """``y = g * base(x) + s B A x + b``, and for DoRA ``y = (m / norm) * (g * base(x) + s B A x) + b``.

    Gains ``g`` and magnitudes ``m`` are ``[T, out]``. ``trains`` holds ``lora_A`` and ``lora_B``, and if they are
    trained ``bias``, ``gain`` and ``magnitude``.
    """

    _out_axis: ClassVar[int] = -1  # of the output channels in [T, n, ...]

    def __init__(self, base: nn.Module, trains: Collection[str], adapter: "Lora") -> None:
        adds_bias_last = not {"bias", "gain", "magnitude"}.isdisjoint(trains)
        super().__init__(with_parameters(base, {"bias": None}) if adds_bias_last else base)
        self._bias = base._parameters["bias"] if adds_bias_last and "bias" not in trains else None
        self._adapter = adapter

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        out: Tensor = self._add_low_rank(x, y, stacks)
        trained = {name: [stack.parameters[name] for stack in stacks] for name in stacks[0].parameters}
        if self._bias is None and not any(name in trained for name in ("bias", "gain", "magnitude")):
            return out
        by_lane = torch.unflatten(out, 0, (sum(map(len, stacks)), -1))
        if "gain" in trained:
            base = self.frozen(x).view_as(by_lane) if y is None else y
            by_lane = by_lane + (self._broadcast(torch.cat(trained["gain"]), by_lane) - 1) * base
        if "magnitude" in trained:
            norms = torch.cat([self._norms(stack) for stack in stacks])
            by_lane = by_lane * self._broadcast(torch.cat(trained["magnitude"]) / norms, by_lane)
        bias = torch.cat(trained["bias"]) if "bias" in trained else self._bias
        if bias is not None:
            by_lane = by_lane + self._broadcast(bias.view(-1, by_lane.shape[self._out_axis]), by_lane)
        return by_lane.flatten(0, 1)

    @abstractmethod
    def _add_low_rank(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """``frozen(x) + s B A x``, ``[T * n, ...]``."""

    def _broadcast(self, rows: Tensor, by_lane: Tensor) -> Tensor:
        """``rows [T or 1, out]`` in a shape that broadcasts to ``by_lane [T, n, ...]``."""
        shape = [1] * by_lane.ndim
        shape[0], shape[self._out_axis] = rows.shape
        return rows.view(shape)

    @torch.no_grad()
    def _norms(self, stack: Stack) -> Tensor:
        A, B, s = self._factors(stack)
        return row_norms(weight_matrix(self.frozen).to(A), A, B, s, stack.parameters.get("gain", 1.0))

    def _factors(self, stack: Stack) -> Factors:
        A, B = self._adapter.factors_of(stack.parameters)
        return A, B, self._adapter.s(stack.alpha, A.shape[1])[:, None, None]


class LoraLinear(LowRankLayer):
    """A Linear layer with a low-rank sum."""

    def _add_low_rank(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        weight, bias = self.frozen.get_parameter("weight"), self.frozen._parameters["bias"]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        factors = [(A.to(dtype), B.to(dtype), s.to(dtype)) for A, B, s in map(self._factors, stacks)]
        vectors = x.flatten(0, -2).to(dtype)
        if y is None:
            out = adapted_linear(vectors, weight.to(dtype), None if bias is None else bias.to(dtype), factors)
        else:
            out = add_to_shared(vectors, y.flatten(0, -2).to(dtype), factors)
        return out.view(len(x) * (1 if y is None else sum(map(len, stacks))), *x.shape[1:-1], -1)


class LoraConv2d(LowRankLayer):
    """A convolution with a low-rank sum: a convolution to ``r`` channels, and one of 1 x 1.

    A grouped convolution has the weight view ``[out, in / groups * kh * kw]``: all groups share ``A``, and each has its
    rows of ``B``.
    """

    _out_axis = 2

    def _add_low_rank(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        if y is not None:
            return joined([self._add_stack(x, y, stack, shared=True) for stack in stacks])
        parts = zip(split_by_stack(x, stacks), split_by_stack(self.frozen(x), stacks), stacks, strict=True)
        return joined([self._add_stack(*part, shared=False) for part in parts])

    def _add_stack(self, x: Tensor, y: Tensor, stack: Stack, *, shared: bool) -> Tensor:
        A, B, s = self._factors(stack)
        T, r, _ = A.shape
        base, groups = self.frozen, group_count(self.frozen)
        kernel = A.reshape(T, r, *base.get_parameter("weight").shape[1:])
        if shared:  # each group convolves its channels with the kernels of all lanes
            down = convolve(base, x, kernel.flatten(0, 1).repeat(groups, 1, 1, 1), groups)
            down = torch.unflatten(down, 1, (groups, T, r)).transpose(1, 2).flatten(1, 3)
        else:  # the lanes' images become groups of channels, convolved with the kernels of their lane
            images = torch.unflatten(x, 0, (T, -1)).transpose(0, 1).flatten(1, 2)
            kernels = kernel[:, None].expand(T, groups, *kernel.shape[1:])
            down = convolve(base, images, kernels.flatten(0, 2), T * groups)
        up = (B * s).reshape(-1, r, 1, 1)
        low = F.conv2d(down, up, groups=T * groups)
        by_lane = torch.unflatten(low, 1, (T, -1)).transpose(0, 1)
        return torch.add(by_lane, y if shared else torch.unflatten(y, 0, (T, -1))).flatten(0, 1)


def convolve(base: nn.Module, x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    """Convolve with another ``kernel [out, channels / groups, kh, kw]`` as ``base`` does, without a bias."""
    layer = with_parameters(base, {"weight": kernel, "bias": None})
    layer.__dict__["groups"] = groups
    y: Tensor = layer(x)
    return y


def row_norms(W: Tensor, A: Tensor, B: Tensor, s: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """``||g w + s b A||`` of each row of each lane, ``[T, out]``, without computing ``B A``.

    ``||g w + s b A||^2 = g^2 ||w||^2 + 2 g s b (A w) + s^2 b (A A^T) b``, with ``W [out, in]`` and ``g [T, out]``.
    """
    s = s.view(-1, 1)
    cross = ((W @ A.mT) * B).sum(2)
    square = ((B @ (A @ A.mT)) * B).sum(2)
    return (gain**2 * W.square().sum(1) + 2 * gain * s * cross + s.square() * square).clamp_min(1e-24).sqrt()


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
        return alpha / (rank if self.scale == "alpha/r" else math.sqrt(rank))

    def factors_of(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``A`` and ``B`` that a layer computes with, from its tensors: those in few bits are rounded."""
        bits = LOW_BITS.get(self.factors)
        A, B = (
            rounded_factor(parameters[name], parameters[f"{name}_scale"], axis, bits) if bits else parameters[name]
            for name, axis in DIRECTION_AXIS.items()
        )
        return A, B

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
        return layer_type(base, trains, self)

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
