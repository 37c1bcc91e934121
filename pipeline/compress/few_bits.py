"""Values in few bits: a grid that is even in magnitude, or a set of levels, of which each value takes the nearest.

Legend: ``b`` bits, ``c`` a code, ``values [..., out, in]``. What a grid is made of, its *parameters*, are tensors by
name, and may have leading axes of lanes under ``torch.vmap``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.compress.kmeans import kmeans
from pipeline.compress.latents import looked_up
from pipeline.config.table import Config

ROUNDS = 20
"""Rounds of fitting an even grid to values and values to the grid."""
CLIP = 2.0
"""Largest points to which latent weights are clipped, so that they do not drift away."""


class Grid(ABC):
    """The form of a grid: everything but its parameters."""

    width: int
    """Bits of a code."""
    by_row: bool = False
    """Whether each row has parameters of its own."""
    in_order: bool = False
    """Whether codes count the points of ``table`` from the least."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, as packed tensors."""

    @abstractmethod
    def fit(self, values: Tensor, kept: Tensor) -> dict[str, Tensor]:
        """The parameters of the least squared error of those ``values [out, in]`` that are kept, bool."""

    @abstractmethod
    def nearest(self, values: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """The code of each value, whole numbers in the type of ``values [out, in]``."""

    @abstractmethod
    def points(self, codes: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """The value of each code ``[out, in]``, differentiable in the parameters."""

    @abstractmethod
    def largest(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The largest magnitude of a point, in a shape that broadcasts to ``[out, in]``."""

    @abstractmethod
    def at(self, positions: Tensor, inner: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of the weights at flat ``positions [K]`` of a matrix ``[out, inner]``, or one for all."""

    @abstractmethod
    def table(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The points of all codes, ``[n, 1]``; of grids by row those of the first row, then of the second.

        They are in the order of the codes, or in any where ``in_order``.
        """

    def rounded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The points of the latent weights at the positions ``kept``, zero elsewhere, ``[out, in]``.

        Parameters get the sums of the gradients of their points, divided by the root of the mean number of points that
        each has, as scales do in LSQ (Esser et al., 2020, arXiv:1902.08153).
        """
        latent, kept = tensors["latent"], tensors["kept"]
        with torch.no_grad():
            code = self.nearest_kept(tensors).nan_to_num(0).long()  # a lane that diverged must not stop the others
            code = code + (kept // latent.shape[1] << self.width) if self.by_row else code
        share = min(1.0, math.sqrt(tensors[self.names[0]].numel() / len(kept)))
        return looked_up(latent, self.table(tensors), code, kept, share, self.in_order)

    def nearest_kept(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The codes ``[K]`` of the latent weights at the positions ``kept``."""
        latent, kept = tensors["latent"].detach(), tensors["kept"]
        own = self.at(kept, latent.shape[1], {name: tensors[name].detach() for name in self.names})
        return self.nearest(latent.flatten().index_select(0, kept), own)


@dataclass(frozen=True)
class MagnitudeGrid(Grid):
    """``+-(zero + scale m)`` for ``m`` in ``0 .. 2^(b-1) - 1``: no code stands for 0, as a kept weight is none.

    ``scale`` and ``zero``, the least magnitude, are ``[1, 1]`` for the layer, or ``[out, 1]`` with one for each row.
    Codes are in the order of their values. A grid of one bit has no ``scale``.
    """

    width: int
    by_row: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return ("scale", "zero") if self.width > 1 else ("zero",)

    def at(self, positions: Tensor, inner: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name: parameters[name].flatten() for name in self.names}
        rows = positions // inner
        return {name: t.index_select(0, rows) for name, t in own.items()} if self.by_row else own

    def table(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.points(torch.arange(1 << self.width, device=parameters["zero"].device), parameters).reshape(-1, 1)

    def largest(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["zero"].abs() + (self.half - 1) * parameters.get("scale", parameters["zero"]).abs()

    @property
    def half(self) -> int:
        """The number of different magnitudes."""
        return 1 << (self.width - 1)

    def fit(self, values: Tensor, kept: Tensor) -> dict[str, Tensor]:
        if values.is_meta:  # only the shape is known
            return {name: values.new_empty(len(values) if self.by_row else 1, 1) for name in self.names}
        axis = 1 if self.by_row else (0, 1)
        size, mask = values.abs().double(), kept.double()

        def summed(terms: Tensor) -> Tensor:
            return (mask * terms).sum(axis, keepdim=True)

        count = mask.sum(axis, keepdim=True).clamp_min(1)
        low = size.where(kept, torch.inf).amin(axis, keepdim=True)
        high = (size * mask).amax(axis, keepdim=True)
        low = torch.minimum(low, high)  # a row may keep nothing
        best_scale, best_zero, least = torch.zeros_like(low), low, torch.full_like(low, torch.inf)
        for stretch in (1.0, 0.6, 0.3):
            zero, scale = low, stretch * (high - low) / max(1, self.half - 1)
            for _ in range(ROUNDS):
                m = self._magnitudes(size, scale, zero)
                error = summed((zero + scale * m - size).square())
                better = error < least
                best_scale, best_zero = scale.where(better, best_scale), zero.where(better, best_zero)
                least = torch.minimum(error, least)
                mean_m, mean = summed(m) / count, summed(size) / count
                spread = summed((m - mean_m).square())
                scale = torch.where(spread > 0, summed((m - mean_m) * (size - mean)) / spread.where(spread > 0, 1), 0)
                zero = (mean - scale * mean_m).clamp_min(0)
                through_zero = summed(m * size) / summed(m * m).clamp_min(1)
                scale = torch.where(zero > 0, scale, through_zero)
        fitted = {"scale": best_scale, "zero": best_zero}
        return {name: fitted[name].to(values.dtype) for name in self.names}

    def _magnitudes(self, size: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return (size - zero).div_(scale + (scale == 0)).round_().clamp(0, self.half - 1)

    def nearest(self, values: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        signs = _signs(values)
        if self.width == 1:
            return 0.5 + 0.5 * signs
        m = self._magnitudes(values.abs(), parameters["scale"], parameters["zero"])
        return m.add_(0.5).mul_(signs).add_(self.half - 0.5)

    def points(self, codes: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        centred = codes.to(parameters["zero"].dtype) - (self.half - 0.5)
        signs = centred.sign()
        lowest = signs * parameters["zero"]
        return lowest if self.width == 1 else lowest + (centred - 0.5 * signs) * parameters["scale"]


def _signs(values: Tensor) -> Tensor:
    """1 and -1, with ``sign(0) = 1``."""
    return values.sign().add_(0.5).sign_()


@dataclass(frozen=True)
class Levels(Grid):
    """``k`` values, ``level [k]``, found by k-means; codes are in the order of their values."""

    count: int
    in_order = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("level",)

    @property
    def width(self) -> int:  # type: ignore[override]
        return (self.count - 1).bit_length()

    def fit(self, values: Tensor, kept: Tensor) -> dict[str, Tensor]:
        if values.is_meta:  # only the shape is known
            return {"level": values.new_empty(self.count)}
        return {"level": kmeans(values[kept][:, None], self.count)[:, 0]}

    def at(self, positions: Tensor, inner: int, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"level": parameters["level"]}

    def table(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["level"][:, None]

    def largest(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["level"].abs().amax()

    def nearest(self, values: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        level = parameters["level"].sort().values
        middles = (level[1:] + level[:-1]) / 2
        if self.count > FEW:
            return torch.searchsorted(middles, values.contiguous()).to(values.dtype)
        parts = torch.split(values.flatten(), AT_ONCE // self.count)
        return torch.cat([(part - middles[:, None]).sign_().relu_().sum(0) for part in parts]).view(values.shape)

    def points(self, codes: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        level = parameters["level"].sort().values
        return level.index_select(0, codes.flatten().long()).view(codes.shape)


FEW = 64
"""Levels up to which comparing with each takes less time than a binary search."""
AT_ONCE = 2**17
"""Comparisons at once, whose results stay in a cache."""


class FewBits(Config):
    """How kept values are stored in few bits; one of ``bits`` and ``levels``."""

    bits: int | None = Field(None, ge=1, le=8)
    """Bits of a value, on a grid that is even in magnitude; 1 keeps the signs alone, so that weights are ternary."""
    levels: int | None = Field(None, ge=2, le=256)
    """Different values of a layer, found by k-means."""
    scale: Literal["tensor", "row"] = "tensor"
    """One grid for the layer, or one for each row, which takes up to 8 more bytes a row."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.bits is None) == (self.levels is None):
            raise ValueError("give one of bits, from 1 to 8, and levels, from 2 to 256")
        if self.levels is not None and self.scale == "row":
            raise ValueError('levels are those of the whole layer, so no scale = "row"; leave one of the two out')
        return self

    @property
    def grid(self) -> Grid:
        """The form of the grid."""
        return Levels(self.levels) if self.levels is not None else MagnitudeGrid(self.bits or 0, self.scale == "row")
