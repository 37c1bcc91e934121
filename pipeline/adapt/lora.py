"""LoRA (Hu et al., 2021, arXiv:2106.09685): a trained low-rank sum beside a frozen weight.

Legend: ``T`` lanes, ``n`` images, ``r`` rank, ``A [T, r, in]`` and ``B [T, out, r]`` the factors, ``s [T]`` the scale.
``A`` and ``B`` are never multiplied: ``B A`` would be as large as the weight, once for every lane.
"""

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt import low_rank
from pipeline.adapt.contract import Adapter, Start
from pipeline.adapt.lanes import LaneLayer, Stack
from pipeline.compress.layers import group_count
from pipeline.registry import ADAPTERS

L = TypeVar("L", bound=nn.Module)


class LoraLinear(LaneLayer):
    """``y = base(x) + s (x A^T) B^T``.

    Args:
        base: The frozen layer, ``in -> out``; without its bias where that is trained.
        scaling: What alpha is divided by, at a rank.
    """

    def __init__(self, base: nn.Module, scaling: "Lora") -> None:
        super().__init__(base)
        self._scaling = scaling

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """``[n or T * n, ..., in] -> [T * n, ..., out]``."""
        weight, bias = self.frozen.get_parameter("weight"), self.frozen._parameters["bias"]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        factors = [self._factors(stack, dtype) for stack in stacks]
        vectors = x.flatten(0, -2).to(dtype)
        if y is None:
            out = low_rank.on_own(vectors, weight.to(dtype), None if bias is None else bias.to(dtype), factors)
        else:
            out = low_rank.on_shared(vectors, y.flatten(0, -2).to(dtype), factors)
        T = sum(map(len, stacks))
        biases = [stack.parameters["bias"] for stack in stacks if "bias" in stack.parameters]
        if biases:
            out = (torch.unflatten(out, 0, (T, -1)) + torch.cat(biases)[:, None]).flatten(0, 1)
        return out.view(len(x) * (1 if y is None else T), *x.shape[1:-1], -1)

    def _factors(self, stack: Stack, dtype: torch.dtype) -> low_rank.Factors:
        A, B = stack.parameters["lora_A"].to(dtype), stack.parameters["lora_B"].to(dtype)
        return A, B, self._scaling.s(stack.alpha, A.shape[1]).to(dtype)[:, None, None]


class LoraConv2d(LaneLayer):
    """``y = base(x) + s B * (A * x)``: a convolution to ``r`` channels, then one of 1 x 1.

    A grouped base keeps its view ``[out, in / groups * kh * kw]``: every group shares ``A`` and has its rows of ``B``.

    Args:
        base: The frozen layer; without its bias where that is trained.
        scaling: What alpha is divided by, at a rank.
    """

    def __init__(self, base: nn.Conv2d, scaling: "Lora") -> None:
        super().__init__(base)
        self._scaling = scaling

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """``[n or T * n, C, H, W] -> [T * n, out, H', W']``."""
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
        A, B, bias = stack.parameters["lora_A"], stack.parameters["lora_B"], stack.parameters.get("bias")
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
        low = F.conv2d(down, up, None if bias is None else bias.flatten(), groups=T * groups)
        by_lane = torch.unflatten(low, 1, (T, -1)).transpose(0, 1)
        return torch.add(by_lane, y if shared else torch.unflatten(y, 0, (T, -1))).flatten(0, 1)


def _joined(outputs: list[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def convolve(base: nn.Module, x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    """``kernel * x`` as the class of ``base`` does it, with its stride and its way of padding."""
    layer = without_bias(base)
    del layer._parameters["weight"]
    layer.__dict__ |= {"weight": kernel, "groups": groups}
    y: Tensor = layer(x)
    return y


def without_bias(layer: L) -> L:
    """The same layer over the same weight, without a bias."""
    bare = copy.copy(layer)
    bare.__dict__["_parameters"] = {**layer._parameters, "bias": None}
    return bare


S = TypeVar("S", float, Tensor)


@ADAPTERS.register("lora")
class Lora(Adapter):
    """A low-rank sum on each target layer: ``W = Q + s B A``; ``A``, ``B`` and, if asked, biases are trained."""

    scale: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r"
    """``s``; the second is rank-stabilised (Kalajdzievski, 2023, arXiv:2312.03732)."""
    bias: bool = False
    """Train the biases of the target layers as well: they cost no bytes."""

    def s(self, alpha: S, rank: int) -> S:
        return alpha / (rank if self.scale == "alpha/r" else math.sqrt(rank))

    def begin(self, model: nn.Module, starts: Mapping[str, Start], alpha: float) -> dict[str, Tensor]:
        parameters = {}
        for name, start in starts.items():
            factors = start.at_scale(self.s(alpha, len(start.A)))
            parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"] = factors
            bias = getattr(model.get_submodule(name), "bias", None)
            if self.bias and bias is not None:
                parameters[f"{name}.bias"] = bias.detach().cpu()
        return parameters

    def layer(self, base: nn.Module, trains: Collection[str]) -> LaneLayer:
        frozen = without_bias(base) if "bias" in trains else base
        return LoraConv2d(frozen, self) if isinstance(frozen, nn.Conv2d) else LoraLinear(frozen, self)

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        return rank * sum(shape)
