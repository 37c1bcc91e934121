"""LoRA (Hu et al., 2021, arXiv:2106.09685): a trained low-rank sum beside a frozen weight.

Legend: ``T`` lanes, ``n`` images, ``r`` rank, ``A [T, r, in]`` and ``B [T, out, r]`` the factors, ``s [T]`` the scale.
``A`` and ``B`` are never multiplied: ``B A`` would be as large as the weight, once for every lane.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt import low_rank
from pipeline.adapt.contract import Adapter, Draw, Start
from pipeline.adapt.factor_storage import FactorType, pack_factors, unpack_factors
from pipeline.adapt.lanes import LaneLayer, Stack, with_parameters
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import group_count, weight_matrix
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import ADAPTERS
from pipeline.errors import SpecError


class LowRankLayer(LaneLayer):
    """``y = g * base(x) + s B A x + b``, and for DoRA ``y = (m / norm) * (g * base(x) + s B A x) + b``.

    Gains ``g`` and magnitudes ``m`` are ``[T, out]``, one number a row of the weight.

    Args:
        base: The frozen layer.
        trains: What lanes have of their own: ``lora_A`` and ``lora_B``, perhaps ``bias``, ``gain``, ``magnitude``.
        scaling: What alpha is divided by, at a rank.
    """

    def __init__(self, base: nn.Module, trains: Collection[str], scaling: "Lora") -> None:
        apart = not {"bias", "gain", "magnitude"}.isdisjoint(trains)
        super().__init__(with_parameters(base, {"bias": None}) if apart else base)
        self._bias = base._parameters["bias"] if apart and "bias" not in trains else None
        self._scaling = scaling

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """``[n or T * n, ...] -> [T * n, ...]``."""
        out: Tensor = self._sum(x, y, stacks)
        kinds = stacks[0].parameters.keys()
        if kinds == {"lora_A", "lora_B"} and self._bias is None:
            return out
        by_lane = torch.unflatten(out, 0, (sum(map(len, stacks)), -1))
        if "gain" in kinds:
            base = self.frozen(x).view_as(by_lane) if y is None else y
            by_lane = by_lane + (self._rows(_cat(stacks, "gain"), by_lane) - 1) * base
        if "magnitude" in kinds:
            norms = torch.cat([self._norms(stack) for stack in stacks])
            by_lane = by_lane * self._rows(_cat(stacks, "magnitude") / norms, by_lane)
        bias = _cat(stacks, "bias") if "bias" in kinds else self._bias
        if bias is not None:
            by_lane = by_lane + self._rows(bias.view(-1, by_lane.shape[self._out_axis]), by_lane)
        return by_lane.flatten(0, 1)

    _out_axis: ClassVar[int] = -1
    """Where ``out`` stands in ``[T, n, ...]``."""

    @abstractmethod
    def _sum(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """``frozen(x) + s B A x``."""

    def _rows(self, rows: Tensor, by_lane: Tensor) -> Tensor:
        """``[T, out]``, or ``[1, out]`` for all lanes, in a shape that meets ``by_lane [T, n, ...]``."""
        shape = [1] * by_lane.ndim
        shape[0], shape[self._out_axis] = rows.shape
        return rows.view(shape)

    @torch.no_grad()
    def _norms(self, stack: Stack) -> Tensor:
        A, B = stack.parameters["lora_A"], stack.parameters["lora_B"]
        s = self._scaling.s(stack.alpha, A.shape[1])
        return row_norms(weight_matrix(self.frozen).to(A), A, B, s, stack.parameters.get("gain", 1.0))


class LoraLinear(LowRankLayer):
    """A Linear layer, ``in -> out``."""

    def _sum(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        weight, bias = self.frozen.get_parameter("weight"), self.frozen._parameters["bias"]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        factors = [self._factors(stack, dtype) for stack in stacks]
        vectors = x.flatten(0, -2).to(dtype)
        if y is None:
            out = low_rank.on_own(vectors, weight.to(dtype), None if bias is None else bias.to(dtype), factors)
        else:
            out = low_rank.on_shared(vectors, y.flatten(0, -2).to(dtype), factors)
        return out.view(len(x) * (1 if y is None else sum(map(len, stacks))), *x.shape[1:-1], -1)

    def _factors(self, stack: Stack, dtype: torch.dtype) -> low_rank.Factors:
        A, B = stack.parameters["lora_A"].to(dtype), stack.parameters["lora_B"].to(dtype)
        return A, B, self._scaling.s(stack.alpha, A.shape[1]).to(dtype)[:, None, None]


class LoraConv2d(LowRankLayer):
    """A convolution: the sum is one to ``r`` channels, then one of 1 x 1.

    A grouped base keeps its view ``[out, in / groups * kh * kw]``: every group shares ``A`` and has its rows of ``B``.
    """

    _out_axis = 2

    def _sum(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        if y is not None:
            return _joined([self._stack(x, y, stack, shared=True) for stack in stacks])
        y, n = self.frozen(x), len(x) // sum(map(len, stacks))
        outputs, start = [], 0
        for stack in stacks:
            rows = slice(start, start + len(stack) * n)
            start = rows.stop
            outputs.append(self._stack(x[rows], y[rows], stack, shared=False))
        return _joined(outputs)

    def _stack(self, x: Tensor, y: Tensor, stack: Stack, *, shared: bool) -> Tensor:
        A, B = stack.parameters["lora_A"], stack.parameters["lora_B"]
        T, r, _ = A.shape
        base = self.frozen
        groups = group_count(base)
        kernel = A.reshape(T, r, *base.get_parameter("weight").shape[1:])
        if shared:  # the channels of a group are all lanes'
            down = convolve(base, x, kernel.flatten(0, 1).repeat(groups, 1, 1, 1), groups)
            down = torch.unflatten(down, 1, (groups, T, r)).transpose(1, 2).flatten(1, 3)
        else:  # the channels of a lane are its own images'
            images = torch.unflatten(x, 0, (T, -1)).transpose(0, 1).flatten(1, 2)
            kernels = kernel[:, None].expand(T, groups, *kernel.shape[1:])
            down = convolve(base, images, kernels.flatten(0, 2), T * groups)
        up = (B * self._scaling.s(stack.alpha, r)[:, None, None]).reshape(-1, r, 1, 1)
        low = F.conv2d(down, up, groups=T * groups)
        by_lane = torch.unflatten(low, 1, (T, -1)).transpose(0, 1)
        return torch.add(by_lane, y if shared else torch.unflatten(y, 0, (T, -1))).flatten(0, 1)


def _cat(stacks: Sequence[Stack], kind: str) -> Tensor:
    return torch.cat([stack.parameters[kind] for stack in stacks])


def _joined(outputs: list[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def convolve(base: nn.Module, x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    """``kernel * x`` as the class of ``base`` does it, with its stride and its way of padding, without a bias."""
    layer = with_parameters(base, {"weight": kernel, "bias": None})
    layer.__dict__["groups"] = groups
    y: Tensor = layer(x)
    return y


def row_norms(W: Tensor, A: Tensor, B: Tensor, s: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """``||g W + s B A||`` of each row of each lane, ``[T, out]``, and no product ``B A`` is built.

    ``||g w + s b A||^2 = g^2 ||w||^2 + 2 g s b (A w) + s^2 b (A A^T) b``; ``g [T, out]``.
    """
    s = s[:, None]
    cross = ((W @ A.mT) * B).sum(2)
    square = ((B @ (A @ A.mT)) * B).sum(2)
    return (gain**2 * W.square().sum(1) + 2 * gain * s * cross + s.square() * square).clamp_min(1e-24).sqrt()


S = TypeVar("S", float, Tensor)


@ADAPTERS.register("lora")
class Lora(Adapter):
    """A low-rank sum on each target layer: ``W = Q + s B A``; ``A``, ``B`` and, if asked, biases and scales train."""

    low_rank: ClassVar[bool] = True

    scale: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r"
    """``s``; the second is rank-stabilised (Kalajdzievski, 2023, arXiv:2312.03732)."""
    bias: bool = False
    """Train the biases of the target layers as well: they cost no bytes."""
    scales: bool = False
    """Train a gain for each row of ``Q`` as well; it goes into the scales of the packed weight, and costs no bytes."""
    factors: FactorType = "float32"
    """How ``A`` and ``B`` are stored, and trials judged; int8 with a float32 scale for each of the ``r`` directions."""

    def s(self, alpha: S, rank: int) -> S:
        return alpha / (rank if self.scale == "alpha/r" else math.sqrt(rank))

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        parameters = {}
        for name, start in starts.items():
            factors = start.at_scale(self.s(draw.alpha, len(start.A)))
            parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"] = factors
            bias = getattr(compressed.model.get_submodule(name), "bias", None)
            if self.bias and bias is not None:
                parameters[f"{name}.bias"] = bias.detach().cpu()
            if self.scales:
                parameters[f"{name}.gain"] = torch.ones(len(start.B), dtype=start.B.dtype)
        return parameters

    def layer(self, base: nn.Module, trains: Collection[str]) -> LaneLayer:
        kind = LoraConv2d if isinstance(base, nn.Conv2d) else LoraLinear
        return kind(base, trains, self)

    def to_tensors(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return pack_factors(parameters, self.factors)

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return unpack_factors(tensors)

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
