"""LoRA (Hu et al., 2021, arXiv:2106.09685): a trained low-rank sum beside a frozen weight."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.contract import Adapter, Start
from pipeline.compress.layers import group_count
from pipeline.registry import ADAPTERS


class LoraLinear(nn.Module):
    """``y = base(x) + s (x A^T) B^T`` for ``T`` lanes.

    Args:
        base: The frozen layer, ``in -> out``.
        A: ``[T, r, in]``.
        B: ``[T, out, r]``.
        s: ``[T]``.
    """

    def __init__(self, base: nn.Linear, A: Tensor, B: Tensor, s: Tensor) -> None:
        super().__init__()
        self.base = base
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("s", s, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[T * n, ..., in] -> [T * n, ..., out]``."""
        lanes = x.reshape(len(self.lora_A), -1, x.shape[-1])
        low = lanes @ self.lora_A.mT @ (self.lora_B * self.get_buffer("s")[:, None, None]).mT
        return torch.add(self.base(x), low.reshape(*x.shape[:-1], -1))


class LoraConv2d(nn.Module):
    """``y = base(x) + s B * (A * x)`` for ``T`` lanes: a convolution to ``r`` channels, then one of 1 x 1.

    A grouped base keeps its view ``[out, in / groups * kh * kw]``: every group shares ``A`` and has its rows of ``B``.

    Args:
        base: The frozen layer.
        A: ``[T, r, in / groups * kh * kw]``.
        B: ``[T, out, r]``.
        s: ``[T]``.
    """

    def __init__(self, base: nn.Conv2d, A: Tensor, B: Tensor, s: Tensor) -> None:
        super().__init__()
        self.base = base
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        self.register_buffer("s", s, persistent=False)
        # The base's own class computes A * x, for its stride and its way of padding; its weight is set at each call.
        self._down = copy.copy(base)
        self._down.__dict__["_parameters"] = {"bias": None}
        self._down.groups = base.groups * len(A)

    def forward(self, x: Tensor) -> Tensor:
        """``[T * n, C, H, W] -> [T * n, out, H', W']``."""
        T, r, _ = self.lora_A.shape
        groups = group_count(self.base)
        images = x.reshape(T, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)
        kernel = self.lora_A.reshape(T, 1, r, *self.base.weight.shape[1:])
        self._down.__dict__["weight"] = kernel.expand(T, groups, *kernel.shape[2:]).flatten(0, 2)
        up = self.lora_B * self.get_buffer("s")[:, None, None]
        low = F.conv2d(self._down(images), up.reshape(-1, r, 1, 1), groups=T * groups)
        by_image = low.reshape(len(low), T, -1, *low.shape[2:])
        return torch.add(self.base(x), by_image.transpose(0, 1).flatten(0, 1))


@ADAPTERS.register("lora")
class Lora(Adapter):
    """A low-rank sum on each target layer: ``W = Q + s B A``; ``A`` and ``B`` are all that is trained."""

    scale: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r"
    """``s``; the second is rank-stabilised (Kalajdzievski, 2023, arXiv:2312.03732)."""

    def s(self, alpha: float, rank: int) -> float:
        return alpha / (rank if self.scale == "alpha/r" else math.sqrt(rank))

    def begin(self, model: nn.Module, starts: Mapping[str, Start], alpha: float) -> dict[str, Tensor]:
        parameters = {}
        for name, start in starts.items():
            factors = start.at_scale(self.s(alpha, len(start.A)))
            parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"] = factors
        return parameters

    def attach(
        self, model: nn.Module, parameters: Mapping[str, Tensor], alphas: Sequence[float]
    ) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for name in (key.removesuffix(".lora_A") for key in parameters if key.endswith(".lora_A")):
            A, B = parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"]
            s = torch.tensor([self.s(alpha, A.shape[1]) for alpha in alphas], dtype=A.dtype, device=A.device)
            base = model.get_submodule(name)
            layer = LoraConv2d(base, A, B, s) if isinstance(base, nn.Conv2d) else LoraLinear(base, A, B, s)  # type: ignore[arg-type]
            model.set_submodule(name, layer)
            trained |= {f"{name}.lora_A": layer.lora_A, f"{name}.lora_B": layer.lora_B}
        return trained

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        return rank * sum(shape)
