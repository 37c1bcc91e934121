"""Two to eight bits a weight: round-to-nearest on an even grid, its clip by least squared error."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.packing import pack, packed_bits, unpack
from pipeline.compress.weight import BitCount, CompressedWeight
from pipeline.config.registry import COMPRESSIONS

COVERS = {levels: 2**levels / (2**levels - 1) for levels in range(1, 9)}
"""Stretch of a grid of ``2 ** levels`` steps, counted from its low end, whose last point falls on the high end."""
STRETCHES = (*(step / 20 for step in range(5, 21)), *COVERS.values())
"""Stretches that a clip is searched among. They are the same at all widths: each grid then holds every narrower one,
so more bits never err more."""


@dataclass(frozen=True)
class CodeWeight(CompressedWeight):
    """``Q = zero + scale * code``, without zeros ``Q = scale * (code - 2^(width - 1))``.

    Args:
        code: ``[out, in]``, uint8, below ``2 ** width``.
        scale: ``[out, groups]``.
        zero: ``[out, groups]``, the value of code 0; or ``[0]`` where the grid is symmetric.
        width: Bits of a code.
        group: Columns that share a scale; the last group may have fewer.
    """

    code: Tensor
    scale: Tensor
    zero: Tensor
    width: int
    group: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.code.shape[0], self.code.shape[1]

    def dense(self) -> Tensor:
        if len(self.zero):
            return self._spread(self.scale) * self.code + self._spread(self.zero)
        return self._spread(self.scale) * (self.code.to(self.scale.dtype) - (1 << (self.width - 1)))

    def _spread(self, of_groups: Tensor) -> Tensor:
        """``[out, groups] -> [out, in]``."""
        return of_groups[:, torch.arange(self.shape[1]) // self.group]

    @property
    def bits(self) -> BitCount:
        return BitCount(
            payload=packed_bits(self.code.numel(), self.width), scale=32 * (self.scale.numel() + self.zero.numel())
        )

    @property
    def macs(self) -> int:
        """One of each weight, of each group's scale, and of its zero with the sum of the inputs."""
        return self.code.numel() + self.scale.numel() + self.zero.numel()

    def to_tensors(self) -> dict[str, Tensor]:
        packed = {"code": pack(self.code, self.width), "scale": self.scale.float()}
        return {**packed, "zero": self.zero.float()} if len(self.zero) else packed

    def scaled_rows(self, gain: Tensor) -> Self:
        column = gain.to(self.scale)[:, None]
        return replace(self, scale=self.scale * column, zero=self.zero * column if len(self.zero) else self.zero)


@COMPRESSIONS.register("intN")
class IntN(LayerCompression):
    """N bits a weight: ``Q = scale * code``, rounded to nearest, a scale for each row or each group of columns."""

    bits: Literal[2, 3, 4, 8] = 4
    """Bits of a code."""
    group: int = Field(0, ge=0)
    """Columns that share a scale; 0: the whole row."""
    symmetric: bool = True
    """Codes ``-2^(N-1) .. 2^(N-1)-1`` of a scale alone; else ``0 .. 2^N-1`` above a stored value of code 0."""
    clip: bool = True
    """Search the scale with the least squared error, which may clip the largest weights; else it covers them all."""

    def compress(self, weight: Tensor, stats: LayerStats | None) -> CodeWeight:
        out, inner = weight.shape
        group = min(self.group or inner, inner)
        whole = inner - inner % group
        parts = [weight[:, :whole].reshape(-1, group), *([weight[:, whole:]] if whole < inner else [])]
        codes, scales, zeros = zip(*(self._rounded(part.float()) for part in parts), strict=True)
        code, scale, zero = (torch.cat([part.reshape(out, -1) for part in kind], 1) for kind in (codes, scales, zeros))
        zero = zero.new_empty(0) if self.symmetric else zero
        return CodeWeight(code, scale.to(weight.dtype), zero.to(weight.dtype), self.bits, group)

    def _rounded(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes ``[n, width]``, scales and zeros ``[n, 1]`` of rows ``[n, width]``, each by itself."""
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        if self.symmetric:
            high = torch.maximum(high, -low)
            low = -high
        stretch = torch.full_like(low, COVERS[self.bits - self.symmetric])
        if self.clip:
            least = torch.full_like(low, torch.inf)
            for tried in STRETCHES:
                scale, zero = self._grid(low, high, torch.full_like(low, tried))
                lost = self._codes(rows, scale, zero).mul_(scale).add_(zero).sub_(rows)
                error = lost.square_().sum(1, keepdim=True)
                stretch, least = torch.where(error < least, tried, stretch), torch.minimum(error, least)
        scale, zero = self._grid(low, high, stretch)
        return self._codes(rows, scale, zero).to(torch.uint8), scale, zero

    def _grid(self, low: Tensor, high: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and value of code 0, ``[n, 1]``.

        A symmetric grid stretches about 0; an affine one from ``low``, or, where it is the shorter, about the middle.
        """
        scale = stretch * (high - low) / 2**self.bits
        if self.symmetric:
            return scale, -(1 << (self.bits - 1)) * scale
        return scale, low + (1 - stretch).clamp_min(0) / 2 * (high - low)

    def _codes(self, rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The nearest codes, as floats."""
        steps = torch.where(scale > 0, scale, 1)  # a row of one value has no range
        return (rows - zero).div_(steps).round_().clamp_(0, 2**self.bits - 1)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CodeWeight:
        code = unpack(tensors["code"], shape[0] * shape[1], self.bits).to(torch.uint8).reshape(shape)
        zero = torch.empty(0) if self.symmetric else tensors["zero"]
        return CodeWeight(code, tensors["scale"], zero, self.bits, min(self.group or shape[1], shape[1]))
