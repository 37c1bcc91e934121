"""LoRA (Hu et al., 2021, arXiv:2106.09685): a trained low-rank sum beside a frozen weight."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.contract import Adapter, Start
from pipeline.compress.layers import group_count
from pipeline.registry import ADAPTERS

L = TypeVar("L", bound=nn.Module)


class LoraLinear(nn.Module):
    """``y = base(x) + s (x A^T) B^T`` for ``T`` lanes.

    Args:
        base: The frozen layer, ``in -> out``.
        A: ``[T, r, in]``.
        B: ``[T, out, r]``.
        s: ``[T]``.
        bias: ``[T, out]``, in the place of the frozen bias; none where that stays.
    """

    def __init__(self, base: nn.Linear, A: Tensor, B: Tensor, s: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.base = base if bias is None else without_bias(base)
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.register_buffer("s", s, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[T * n, ..., in] -> [T * n, ..., out]``."""
        lanes = x.reshape(len(self.lora_A), -1, x.shape[-1])
        low = lanes @ self.lora_A.mT @ (self.lora_B * self.get_buffer("s")[:, None, None]).mT
        if self.bias is not None:
            low = low + self.bias[:, None]
        return torch.add(self.base(x), low.reshape(*x.shape[:-1], -1))


class LoraConv2d(nn.Module):
    """``y = base(x) + s B * (A * x)`` for ``T`` lanes: a convolution to ``r`` channels, then one of 1 x 1.

    A grouped base keeps its view ``[out, in / groups * kh * kw]``: every group shares ``A`` and has its rows of ``B``.

    Args:
        base: The frozen layer.
        A: ``[T, r, in / groups * kh * kw]``.
        B: ``[T, out, r]``.
        s: ``[T]``.
        bias: ``[T, out]``, in the place of the frozen bias; none where that stays.
    """

    def __init__(self, base: nn.Conv2d, A: Tensor, B: Tensor, s: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.base = base if bias is None else without_bias(base)
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.register_buffer("s", s, persistent=False)
        # The base's own class computes A * x, for its stride and its way of padding; its weight is set at each call.
        self._down = without_bias(base)
        del self._down._parameters["weight"]
        self._down.groups = base.groups * len(A)

    def forward(self, x: Tensor) -> Tensor:
        """``[T * n, C, H, W] -> [T * n, out, H', W']``."""
        T, r, _ = self.lora_A.shape
        groups = group_count(self.base)
        images = x.reshape(T, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)
        kernel = self.lora_A.reshape(T, 1, r, *self.base.weight.shape[1:])
        self._down.__dict__["weight"] = kernel.expand(T, groups, *kernel.shape[2:]).flatten(0, 2)
        up = self.lora_B * self.get_buffer("s")[:, None, None]
        bias = None if self.bias is None else self.bias.flatten()
        low = F.conv2d(self._down(images), up.reshape(-1, r, 1, 1), bias, groups=T * groups)
        by_image = low.reshape(len(low), T, -1, *low.shape[2:])
        return torch.add(self.base(x), by_image.transpose(0, 1).flatten(0, 1))


def without_bias(layer: L) -> L:
    """The same layer over the same weight, without a bias."""
    bare = copy.copy(layer)
    bare.__dict__["_parameters"] = {**layer._parameters, "bias": None}
    return bare


@ADAPTERS.register("lora")
class Lora(Adapter):
    """A low-rank sum on each target layer: ``W = Q + s B A``; ``A``, ``B`` and, if asked, biases are trained."""

    scale: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r"
    """``s``; the second is rank-stabilised (Kalajdzievski, 2023, arXiv:2312.03732)."""
    bias: bool = False
    """Train the biases of the target layers as well: they cost no bytes."""

    def s(self, alpha: float, rank: int) -> float:
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

    def attach(
        self, model: nn.Module, parameters: Mapping[str, Tensor], alphas: Sequence[float]
    ) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for name in (key.removesuffix(".lora_A") for key in parameters if key.endswith(".lora_A")):
            A, B = parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"]
            s = torch.tensor([self.s(alpha, A.shape[1]) for alpha in alphas], dtype=A.dtype, device=A.device)
            base, bias = model.get_submodule(name), parameters.get(f"{name}.bias")
            kind: Any = LoraConv2d if isinstance(base, nn.Conv2d) else LoraLinear
            layer = kind(base, A, B, s, bias)
            model.set_submodule(name, layer)
            trained |= {f"{name}.{key}": parameter for key, parameter in layer.named_parameters(recurse=False)}
        return trained

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        return rank * sum(shape)
