"""The layers of a loaded model: an ordinary Linear or Conv2d whose low-rank factors are parameters of its own.

They compute with plain torch functions on inputs of any shape that the bare layer takes, and can be moved, cast,
trained, traced, exported, copied and pickled as it can. Legend: ``r`` rank, ``W [out, in]`` the stored weight,
``A [r, in]`` and ``B [out, r]`` the factors, ``s`` the scale, ``m [out]`` the magnitudes of DoRA.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.task.timm_layers import padded_by_size, pads_by_size


class LowRankSum(nn.Module):
    """What such layers share: the factors, the scale, and the gain ``m / ||W + s B A||`` of each row if there is ``m``.

    ``weight`` and ``bias`` are those of the bare layer. As in training, no gradient passes through the norm.
    """

    weight: Tensor
    lora_A: Tensor
    lora_B: Tensor
    magnitude: Tensor | None
    scale: float

    def _output(self, y: Tensor, low: Tensor, bias: Tensor | None, axes: int) -> Tensor:
        """The output for ``y = W x`` and ``low = B A x``, whose output channels have ``axes`` axes after them."""
        y = torch.add(y, low, alpha=self.scale)
        rows, magnitude = [-1] + [1] * axes, self.magnitude
        if magnitude is not None:
            norms = torch.linalg.vector_norm(self.weight.flatten(1) + self.scale * (self.lora_B @ self.lora_A), dim=1)
            norms = norms + (norms == 0).type_as(norms)
            y = y * (magnitude / norms.detach()).type_as(y).view(rows)
        return y if bias is None else y + bias.type_as(y).view(rows)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={len(self.lora_A)}, scale={self.scale:g}"


class AdaptedLinear(LowRankSum, nn.Linear):
    """``y = W x + s B (A x) + b``; with magnitudes ``y = (m / ||W + s B A||) (W x + s B (A x)) + b``."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch calls it
        low = F.linear(F.linear(input, self.lora_A), self.lora_B)
        return self._output(F.linear(input, self.weight), low, self.bias, 0)


class AdaptedConv2d(LowRankSum, nn.Conv2d):
    """The same for a convolution: ``A`` is one to ``r`` channels for each group, and ``B`` one of 1 x 1 after it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch calls it
        _, channels, height, width = self.weight.shape
        kernels = self.lora_A.view(-1, channels, height, width).repeat(self.groups, 1, 1, 1)
        low = F.conv2d(self._conv_forward(input, kernels, None), self.lora_B[:, :, None, None], groups=self.groups)
        return self._output(self._conv_forward(input, self.weight, None), low, self.bias, 2)


class AdaptedConv2dSame(AdaptedConv2d):
    """The same for a convolution of timm that pads as TensorFlow does."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = super()._conv_forward(padded_by_size(self, x), weight, bias)
        return y


def add_low_rank(layer: nn.Module, parameters: Mapping[str, Tensor], scale: float) -> nn.Module:
    """Let a bare Linear or Conv2d layer compute with ``lora_A``, ``lora_B`` and maybe ``magnitude``, in place.

    The object stays the same, so that a layer with two names, its hooks and references to it stay as they are. The new
    parameters have the dtype and the device of its weight.
    """
    of_conv = AdaptedConv2dSame if pads_by_size(layer) else AdaptedConv2d
    layer.__class__ = of_conv if isinstance(layer, nn.Conv2d) else AdaptedLinear
    adapted = cast(LowRankSum, layer)
    adapted.scale = scale
    for name in ("lora_A", "lora_B", "magnitude"):
        tensor = parameters.get(name)
        adapted.register_parameter(name, None if tensor is None else nn.Parameter(tensor.to(adapted.weight)))
    return adapted


def merged_weight(weight: Tensor, parameters: Mapping[str, Tensor], scale: float | Tensor) -> Tensor:
    """``W + s B A``, or ``(m / ||W + s B A||) (W + s B A)``, ``[out, in]`` in the dtype of ``weight``."""
    A, B = (parameters[name].to(weight.device, torch.float64) for name in ("lora_A", "lora_B"))
    merged = weight.double() + scale * (B @ A)
    if "magnitude" in parameters:
        norms = merged.norm(dim=1)
        merged = merged * (parameters["magnitude"].to(merged) / norms.where(norms > 0, 1).detach())[:, None]
    return merged.to(weight.dtype)
