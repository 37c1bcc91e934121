"""Layers with a low-rank sum beside a frozen weight, for stacks of lanes.

Legend: ``T`` lanes, ``n`` images, ``r`` rank, ``A [T, r, in]`` and ``B [T, out, r]`` the factors, ``s [T]`` the scale.
``B A`` is never computed, because it would be as large as the weight for every lane.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.lanes import LaneLayer, Stack, joined, split_by_stack, with_parameters
from pipeline.adapt.low_rank import Factors, adapted_linear, add_to_shared
from pipeline.compress.layers import group_count, weight_matrix


class LowRankLayer(LaneLayer):
    """``y = g * base(x) + s B A x + b``, and for DoRA ``y = (m / norm) * (g * base(x) + s B A x) + b``.

    Gains ``g`` and magnitudes ``m`` are ``[T, out]``.

    Args:
        base: The frozen layer.
        trains: Names of the trained tensors: ``lora_A`` and ``lora_B``, and maybe ``bias``, ``gain`` and ``magnitude``.
        factors: ``A``, ``B`` and ``s`` that a stack of lanes computes with.
    """

    _out_axis: ClassVar[int] = -1  # of the output channels in [T, n, ...]

    def __init__(self, base: nn.Module, trains: Collection[str], factors: Callable[[Stack], Factors]) -> None:
        adds_bias_last = not {"bias", "gain", "magnitude"}.isdisjoint(trains)
        super().__init__(with_parameters(base, {"bias": None}) if adds_bias_last else base)
        self._bias = base._parameters["bias"] if adds_bias_last and "bias" not in trains else None
        self._factors = factors

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
