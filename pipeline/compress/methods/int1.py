"""One bit a weight, as in XNOR-Net (Rastegari et al., 2016, arXiv:1603.05279): a sign each and a scale a row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.packing import pack, packed_bits, unpack
from pipeline.compress.weight import BitCount, CompressedWeight
from pipeline.config.registry import COMPRESSIONS


@dataclass(frozen=True)
class SignWeight(CompressedWeight):
    """``Q = scale * sign``.

    Args:
        positive: ``[out, in]``, bool: true where the sign is +1.
        scale: ``[out]``, ``[1]``, or ``[0]`` where nothing is scaled.
    """

    positive: Tensor
    scale: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.positive.shape[0], self.positive.shape[1]

    def dense(self) -> Tensor:
        signs = torch.where(self.positive, 1, -1).to(self.scale.dtype)
        return signs * self.scale[:, None] if len(self.scale) else signs

    @property
    def bits(self) -> BitCount:
        return BitCount(payload=packed_bits(self.positive.numel(), 1), scale=32 * len(self.scale))

    @property
    def macs(self) -> int:
        """A signed addition counts as one, like any multiply-accumulate; so does the scale of a row."""
        return self.positive.numel() + (len(self.positive) if len(self.scale) else 0)

    def to_tensors(self) -> dict[str, Tensor]:
        signs = {"sign": pack(self.positive, 1)}
        return {**signs, "scale": self.scale.float()} if len(self.scale) else signs

    def scaled_rows(self, gain: Tensor) -> Self:
        if len(self.scale) != len(self.positive):
            have = "one scale for all rows" if len(self.scale) else "no scale"
            raise ValueError(f'int1 weights with {have} cannot take a gain for each row; choose scale = "row"')
        return replace(self, scale=self.scale * gain.to(self.scale))


@COMPRESSIONS.register("int1")
class Int1(LayerCompression):
    """One bit a weight: ``Q = a_i sign(w_i)``, ``sign(0) = +1``, with ``a_i`` by least squares."""

    scale: Literal["row", "tensor", "none"] = "row"
    """One ``a`` for each row, one for the whole weight, or ``a = 1`` (what the first published experiment did)."""
    metric: Literal["weight", "activation"] = "weight"
    """Least squares on weights, ``a = mean |w|``, or on outputs, ``a = (w C q) / (q C q)`` over the rows of ``a``."""

    @property
    def needs_statistics(self) -> bool:
        return self.metric == "activation" and self.scale != "none"

    def compress(self, weight: Tensor, stats: LayerStats | None) -> SignWeight:
        positive = weight >= 0
        signs = torch.where(positive, 1, -1).double()
        projected = signs @ stats.damped() if stats is not None and self.needs_statistics else signs
        along, norm = (weight * projected).sum(1), (signs * projected).sum(1)
        if self.scale == "none":
            scale = along.new_empty(0)
        elif self.scale == "tensor":
            scale = (along.sum() / norm.sum())[None]
        else:
            scale = along / norm
        return SignWeight(positive, scale.to(weight.dtype))

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> SignWeight:
        positive = unpack(tensors["sign"], shape[0] * shape[1], 1).bool().reshape(shape)
        return SignWeight(positive, torch.empty(0) if self.scale == "none" else tensors["scale"])
