"""1 bit per weight, as in XNOR-Net (Rastegari et al., 2016, arXiv:1603.05279), with ``sign(0) = +1``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.latents import Codes, LatentFunction, clipped
from pipeline.compress.packing import Packing, pack, unpack
from pipeline.compress.rounding import Error, Rounding, RoundingGrid, rounded
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS

CLIP = 3.0
"""Scales to which latent weights are clipped, so that they do not drift away from where their sign flips."""
SMALLEST = 1e-3
"""Scales by which a latent weight lies at least on the side of its sign."""


@dataclass(frozen=True)
class SignWeight(CompressedWeight):
    """``Q = scale * sign``."""

    positive: Tensor  # bool [out, in], True where the sign is +1
    scale: Tensor  # [out] per row, [1] for the whole weight, or [0] for a scale of 1

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.positive.shape[0], self.positive.shape[1]

    def dense(self) -> Tensor:
        signs = torch.where(self.positive, 1, -1).to(self.scale.dtype)
        return signs * self.scale[:, None] if len(self.scale) else signs

    @property
    def macs(self) -> int:
        """Each addition or subtraction counts as one, as does each row's product with its scale."""
        return self.positive.numel() + (len(self.positive) if len(self.scale) else 0)

    @property
    def packings(self) -> Mapping[str, Packing]:
        return {"sign": Packing(1, self.shape[1])}

    def to_tensors(self) -> dict[str, Tensor]:
        signs = {"sign": pack(self.positive, 1)}
        return {**signs, "scale": self.scale.float()} if len(self.scale) else signs

    def scaled_rows(self, gain: Tensor) -> Self:
        if len(self.scale) != len(self.positive):
            stored = "one scale for the whole weight" if len(self.scale) else "no scale"
            raise ValueError(f'int1 stores {stored}, and a gain per row needs a scale per row; choose scale = "row"')
        return replace(self, scale=self.scale * gain.to(self.scale))

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        scale = _scale({"scale": self.scale.to(weight), "latent": weight})[:, None]
        signs = torch.where(self.positive == (scale >= 0), 1, -1).to(weight)  # of Q: fitted scales may be negative
        latent = signs * torch.maximum(weight.abs(), SMALLEST * scale.abs())
        return {"latent": latent, **({"scale": self.scale} if len(self.scale) else {})}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        signed: Tensor = _Signed.apply(tensors["latent"], _scale(tensors))
        return signed

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        latent = tensors["latent"]
        middle = torch.copysign(_scale(tensors)[:, None], latent.detach())
        return {"latent": (middle.detach().sign().to(torch.int8), middle)}

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"latent": clipped(tensors["latent"], CLIP * _scale(tensors)[:, None].abs())}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "SignWeight":
        return SignWeight(~tensors["latent"].signbit(), tensors.get("scale", self.scale).abs())


def _scale(tensors: Mapping[str, Tensor]) -> Tensor:
    """The scales ``[out]``, or the only one ``[1]``."""
    scale = tensors.get("scale")
    return tensors["latent"].new_ones(1) if scale is None or not len(scale) else scale


class _Signed(LatentFunction):
    """``|scale| sign(latent)`` with the gradient of this for the latent, which passes over 200,000 weights once."""

    @staticmethod
    def forward(latent: Tensor, scale: Tensor) -> Tensor:
        return torch.copysign(scale[:, None], latent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        scale, signed = ctx.saved_tensors
        by_row = torch.linalg.vecdot(gradients[0], signed)
        total = by_row if scale.shape == by_row.shape else by_row.sum(0, keepdim=True)
        return gradients[0], total / torch.where(scale == 0, torch.inf, scale)


@dataclass(frozen=True)
class SignGrid(RoundingGrid):
    """``-a_i`` and ``a_i`` for row ``i``."""

    scale: Tensor  # [out, 1], or [1, 1] for the whole weight
    fixed: bool  # whether the scale stays as it is

    def nearest(self, column: Tensor, j: int, cost: Tensor) -> Tensor:
        return torch.where(column >= 0, self.scale[:, 0], -self.scale[:, 0])

    def refitted(self, values: Tensor, error: Error) -> tuple[Self, Tensor]:
        if self.fixed:
            return self, values
        step = 1 + error.steps(values, [values], by_row=len(self.scale) > 1)
        step = step.where(step > 0, 1)
        return replace(self, scale=self.scale * step), values * step


@COMPRESSIONS.register("int1")
class Int1(LayerCompression):
    """The sign of each weight and a scale per row, ``Q = a_i sign(w_i)``: the smallest file that an adapter repairs."""

    scale: Literal["row", "tensor", "none"] = "row"
    """One ``a`` per row, one for the whole weight, or ``a = 1`` (as in the first published experiment)."""
    metric: Literal["weight", "activation"] = "weight"
    """Least squares on the weights, ``a = mean |w|``, or on the layer's outputs, ``a = (w C q) / (q C q)``."""

    rounding: Rounding = "nearest"
    """The sign of each weight; or those signs that change the layer's outputs least, with scales fitted to them."""
    later = frozenset({"rounding"})

    @property
    def needs_statistics(self) -> bool:
        return (
            super().needs_statistics
            or self.rounding != "nearest"
            or (self.metric == "activation" and self.scale != "none")
        )

    def compress(self, weight: Tensor, stats: LayerStats | None) -> SignWeight:
        positive = weight >= 0
        signs = torch.where(positive, 1, -1).double()
        projected = stats.times_moment(signs) if stats is not None and self.metric == "activation" else signs
        numerator, denominator = (weight * projected).sum(1), (signs * projected).sum(1)
        if self.scale == "none":
            scale = numerator.new_empty(0)
        elif self.scale == "tensor":
            scale = (numerator.sum() / denominator.sum())[None]
        else:
            scale = numerator / denominator
        if self.rounding != "nearest" and stats is not None:
            start = scale[:, None] if len(scale) else scale.new_ones(1, 1)
            grid, values = rounded(weight, SignGrid(start, not len(scale)), signs * start, stats, self.rounding)
            positive, scale = values >= 0, grid.scale[:, 0] if len(scale) else scale
        return SignWeight(positive, scale.to(weight.dtype))

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> SignWeight:
        positive = unpack(tensors["sign"], shape[0] * shape[1], 1, torch.bool).reshape(shape)
        return SignWeight(positive, torch.empty(0) if self.scale == "none" else tensors["scale"])
