"""2 to 8 bits per weight: rounding to the nearest point of an even grid, whose range is searched."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.even_grid import EvenGrid
from pipeline.compress.latents import Codes, from_runs
from pipeline.compress.on_grid import by_group, grid_points, on_grid, whole_codes
from pipeline.compress.packing import Packing, pack, unpack
from pipeline.compress.rounding import Error, Rounding, conditional_costs, rounded
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS

FULL_RANGE = {bits: 2**bits / (2**bits - 1) for bits in range(1, 9)}
"""The stretch at which the last of ``2 ** bits`` grid points, counted from the low end, falls on the high end."""
STRETCHES = (*(step / 20 for step in range(5, 21)), *FULL_RANGE.values())
"""The stretches that are searched. They are the same for all widths, so that each grid contains every grid of fewer
bits, and more bits never give a larger error."""

INSIDE = 0.499
"""Share of a scale by which a latent weight may lie off the middle of its code's cell when training begins."""


@dataclass(frozen=True)
class CodeWeight(CompressedWeight):
    """``Q = zero + scale * code``, or ``Q = scale * (code - 2^(width - 1))`` without zero points."""

    code: Tensor  # uint8 [out, in], below 2 ** width
    scale: Tensor  # [out, groups]
    zero: Tensor  # [out, groups], the value of code 0; or [0] for a symmetric grid
    width: int  # bits per code
    group: int  # columns that share a scale; the last group may have fewer

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.code.shape[0], self.code.shape[1]

    def dense(self) -> Tensor:
        if len(self.zero):
            return self._per_column(self.scale) * self.code + self._per_column(self.zero)
        return self._per_column(self.scale) * (self.code.to(self.scale.dtype) - (1 << (self.width - 1)))

    def _per_column(self, per_group: Tensor) -> Tensor:
        """``[out, groups] -> [out, in]``, or ``[out, 1]`` where that broadcasts to it."""
        if per_group.shape[1] == 1:
            return per_group
        return per_group[:, torch.arange(self.code.shape[1], device=per_group.device) // self.group]

    @property
    def macs(self) -> int:
        """One per weight, one per scale, and one per zero point (times the sum of the group's inputs)."""
        return self.code.numel() + self.scale.numel() + self.zero.numel()

    @property
    def packings(self) -> Mapping[str, Packing]:
        return {"code": Packing(self.width, self.shape[1])}

    def to_tensors(self) -> dict[str, Tensor]:
        packed = {"code": pack(self.code, self.width), "scale": self.scale.float()}
        return {**packed, "zero": self.zero.float()} if len(self.zero) else packed

    def scaled_rows(self, gain: Tensor) -> Self:
        column = gain.to(self.scale)[:, None]
        return replace(self, scale=self.scale * column, zero=self.zero * column if len(self.zero) else self.zero)

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        scale, cell, last = self._per_column(self.scale).to(weight), self.dense().to(weight), (1 << self.width) - 1
        half = INSIDE * scale.abs()
        low = torch.where(self.code == 0, -torch.inf, cell - half)
        high = torch.where(self.code == last, torch.inf, cell + half)
        inside = torch.minimum(torch.maximum(weight, low), high)
        latent = inside - torch.minimum(torch.maximum(weight - inside, -half), half)
        return {"latent": latent, "scale": self.scale, **({"zero": self.zero} if len(self.zero) else {})}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """``scale * code + zero`` with the gradients of LSQ (Esser et al., 2020, arXiv:1902.08153)."""
        latent = tensors["latent"]
        share = 1 / math.sqrt(min(self.group, latent.shape[1]) * ((1 << self.width) - 1))
        return on_grid(latent, tensors["scale"], tensors.get("zero"), self.group, self._range, share)

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        latent, scale, zero = by_group(tensors["latent"], tensors["scale"], tensors.get("zero"), self.group)
        with torch.no_grad():
            code = whole_codes(latent, scale, zero, self._range)
        middle = grid_points(code, scale, zero)
        codes = from_runs(code - self._range[0], self.shape).to(torch.uint8)
        return {"latent": (codes, from_runs(middle, self.shape))}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "CodeWeight":
        code, _ = self.latent_codes(tensors)["latent"]
        return replace(self, code=code, scale=tensors["scale"], zero=tensors.get("zero", self.zero))

    @property
    def _range(self) -> tuple[int, int]:
        """The least and the largest multiple of the scale that is added to the zero point."""
        least = 0 if len(self.zero) else -(1 << (self.width - 1))
        return least, least + (1 << self.width) - 1


@COMPRESSIONS.register("intN")
class IntN(LayerCompression):
    """N bits per weight, ``Q = scale * code``, with a scale per row or per group of columns: the first thing to try."""

    bits: Literal[2, 3, 4, 8] = 4
    """Bits per code."""
    group: int = Field(0, ge=0)
    """Columns that share a scale; 0 means the whole row."""
    symmetric: bool = True
    """Codes ``-2^(N-1) .. 2^(N-1)-1`` around zero; otherwise ``0 .. 2^N-1`` and a stored value of code 0."""
    clip: bool = True
    """Search the range with the least squared error, which may clip the largest weights; otherwise cover them all."""

    rounding: Rounding = "nearest"
    """Each weight to its nearest code; or to those codes that change the layer's outputs least, with scales fitted."""
    rate: float = Field(0, ge=0)
    """The squared error that a bit must save, as a share of its row's mean squared weight; by the inputs, where their
    statistics are gathered. Rarer codes take more bits: 0.05 leaves about 2.6 a weight and 0.2 about 1.7, whatever
    ``bits`` above that. For ``coding = "rans"`` alone, as packed codes take ``bits`` each."""
    later = frozenset({"rounding", "rate"})

    @property
    def needs_coding(self) -> bool:
        return self.rate > 0

    @property
    def needs_statistics(self) -> bool:
        return super().needs_statistics or self.rounding != "nearest"

    def compress(self, weight: Tensor, stats: LayerStats | None) -> CodeWeight:
        out, inner = weight.shape
        group = min(self.group or inner, inner)
        whole = inner - inner % group
        parts = [weight[:, :whole].reshape(-1, group), *([weight[:, whole:]] if whole < inner else [])]
        codes, scales, zeros = zip(*(self._quantise(part.float()) for part in parts), strict=True)
        code, scale, zero = (torch.cat([part.reshape(out, -1) for part in kind], 1) for kind in (codes, scales, zeros))
        if (self.rounding != "nearest" and stats is not None) or (self.rate and not weight.is_meta):
            code, scale, zero = self._rounded(
                weight, EvenGrid(scale, zero, self.bits, group, self.symmetric), code, stats
            )
        zero = zero.new_empty(0) if self.symmetric else zero
        return CodeWeight(code, scale.to(weight.dtype), zero.to(weight.dtype), self.bits, group)

    def _rounded(
        self, weight: Tensor, grid: EvenGrid, code: Tensor, stats: LayerStats | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, scales and zero points of ``weight``, from the grid and the codes of nearest rounding."""
        grid, code = grid.double(), code.double()
        if self.rate:
            grid, code = grid.rated(weight.double(), self._costs(weight, grid, stats), self.rate)
        if self.rounding != "nearest" and stats is not None:
            grid, values = rounded(weight, grid, grid.points(code), stats, self.rounding)
            code = grid.all_codes(values)
        return code.to(torch.uint8), grid.scale, grid.zero

    def _costs(self, weight: Tensor, grid: EvenGrid, stats: LayerStats | None) -> Tensor:
        """What a squared error of each column costs in the layer's outputs, float64 ``[in]``."""
        if stats is None:
            return torch.ones(weight.shape[1], dtype=torch.float64)
        error = Error(weight, stats)
        return error.diagonal if self.rounding == "nearest" else conditional_costs(grid, error)

    def _quantise(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes ``[n, columns]``, scales ``[n, 1]`` and zero points ``[n, 1]`` of ``rows [n, columns]``."""
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        if self.symmetric:
            high = torch.maximum(high, -low)
            low = -high
        stretch = torch.full_like(low, FULL_RANGE[self.bits - self.symmetric])
        if self.clip and not rows.is_meta:
            least = torch.full_like(low, torch.inf)
            for candidate in STRETCHES:
                scale, zero = self._grid(low, high, torch.full_like(low, candidate))
                difference = self._nearest_codes(rows, scale, zero).mul_(scale).add_(zero).sub_(rows)
                error = difference.square_().sum(1, keepdim=True)
                stretch, least = torch.where(error < least, candidate, stretch), torch.minimum(error, least)
        scale, zero = self._grid(low, high, stretch)
        return self._nearest_codes(rows, scale, zero).to(torch.uint8), scale, zero

    def _grid(self, low: Tensor, high: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and value of code 0, each ``[n, 1]``, of a grid over ``stretch`` times the range ``low .. high``.

        One that is not symmetric starts at ``low`` if its stretch is 1 or more, and otherwise is centred in the range.
        """
        scale = stretch * (high - low) / 2**self.bits
        if self.symmetric:
            return scale, -(1 << (self.bits - 1)) * scale
        return scale, low + (1 - stretch).clamp_min(0) / 2 * (high - low)

    def _nearest_codes(self, rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        divisor = torch.where(scale > 0, scale, 1)  # a constant row has a scale of 0
        return (rows - zero).div_(divisor).round_().clamp_(0, 2**self.bits - 1)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CodeWeight:
        code = unpack(tensors["code"], shape[0] * shape[1], self.bits, torch.uint8).reshape(shape)
        zero = torch.empty(0) if self.symmetric else tensors["zero"]
        return CodeWeight(code, tensors["scale"], zero, self.bits, min(self.group or shape[1], shape[1]))
