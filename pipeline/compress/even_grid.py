"""Rounding to an even grid with a scale per row or per group of columns, by the error alone or by coded size too.

Legend: ``w [out, in]`` weights, ``c`` their codes, ``q = zero + scale c``; an error of column ``j`` weighs ``h_j``.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.compress.rate import BEST_STEP, ROUNDS, SETTLED, code_lengths
from pipeline.compress.rounding import Error, RoundingGrid

AT_ONCE = 2**22
"""Costs that are compared at once."""


@dataclass(frozen=True)
class EvenGrid(RoundingGrid):
    """``zero + scale * code`` for codes ``0 .. 2^width - 1``, with a scale and a zero per row and group of columns.

    Where codes have ``lengths`` in bits, each is the minimiser of ``h_j (w - q)^2 + bit_price length(c)``.
    """

    scale: Tensor  # [out, groups]
    zero: Tensor  # [out, groups]
    width: int
    group: int
    symmetric: bool  # whether zero is -2^(width - 1) * scale
    bit_price: Tensor | None = None  # lambda of each row, [out]
    lengths: Tensor | None = None  # [2^width]; infinite for codes that are not used

    def double(self) -> Self:
        """The grid in float64."""
        return replace(self, scale=self.scale.double(), zero=self.zero.double())

    @property
    def _middle(self) -> int:
        """What a code loses so that its value is a multiple of the scale."""
        return 2 ** (self.width - 1) if self.symmetric else 0

    def codes(self, values: Tensor, g: int) -> Tensor:
        """The code nearest to each of the ``values [out, n]`` of group ``g``, as whole numbers in their type."""
        scale = self.scale[:, g, None]
        divisor = scale.where(scale > 0, 1)  # a constant row has a scale of 0
        return ((values - self.zero[:, g, None]) / divisor).round_().clamp_(0, 2**self.width - 1)

    def all_codes(self, values: Tensor) -> Tensor:
        """``codes`` of all groups, ``[out, in]``."""
        return torch.cat([self.codes(part, g) for g, part in enumerate(torch.split(values, self.group, 1))], 1)

    def points(self, codes: Tensor) -> Tensor:
        """The values of ``codes [out, in]``."""
        of_column = torch.arange(codes.shape[1]) // self.group
        return codes * self.scale[:, of_column] + self.zero[:, of_column]

    def nearest(self, column: Tensor, j: int, cost: Tensor) -> Tensor:
        g = j // self.group
        codes = self.codes(column[:, None], g) if self.lengths is None else self._best(column[:, None], g, cost[None])
        return codes[:, 0] * self.scale[:, g] + self.zero[:, g]

    def _best(self, values: Tensor, g: int, h: Tensor) -> Tensor:
        """The codes of the least ``h (w - q)^2 + bit_price length``, for ``values [out, n]`` of group ``g``."""
        assert self.lengths is not None
        assert self.bit_price is not None
        used = self.lengths.isfinite().nonzero().flatten()
        points = self.zero[:, g, None] + self.scale[:, g, None] * used  # [out, k]
        prices = self.bit_price[:, None] * self.lengths[used]
        rows = max(1, AT_ONCE // (values.shape[1] * len(used)))
        parts = zip(*(torch.split(t, rows) for t in (values, points, prices)), strict=True)
        best = [((w[:, :, None] - q[:, None]).square_().mul_(h[:, None]) + p[:, None]).argmin(2) for w, q, p in parts]
        return used[torch.cat(best)].to(values.dtype)

    def price(self, values: Tensor) -> float:
        if self.lengths is None or self.bit_price is None:
            return 0.0
        return float((self.bit_price[:, None] * self.lengths[self.all_codes(values).long()]).sum())

    def _measured(self, codes: Tensor) -> Self:
        """The grid with the lengths that ``codes [out, in]`` give."""
        return self if self.bit_price is None else replace(self, lengths=code_lengths(codes, 2**self.width))

    def rated(self, weight: Tensor, h: Tensor, rate: float) -> tuple[Self, Tensor]:
        """A grid whose bits have a price, and the codes ``[out, in]`` of ``weight`` on it, fitted to each other.

        Args:
            weight: ``[out, in]``.
            h: What errors of each column weigh, ``[in]``.
            rate: The price of a bit, in units of the mean of ``h_j w_j^2`` of each row.
        """
        bit_price = rate * (h * weight.square()).mean(1)
        scale = torch.maximum(self.scale, (BEST_STEP * bit_price / h.mean()).sqrt()[:, None])
        middle = (2**self.width - 1) / 2 if not self.symmetric else self._middle
        grid = replace(self, scale=scale, zero=self.zero + middle * (self.scale - scale), bit_price=bit_price)
        codes = grid.all_codes(weight)
        for _ in range(ROUNDS):
            grid = grid._fitted(weight, codes, h)._measured(codes)
            before, parts = codes, zip(torch.split(weight, self.group, 1), torch.split(h, self.group), strict=True)
            codes = torch.cat([grid._best(part, g, its) for g, (part, its) in enumerate(parts)], 1)
            if float((codes != before).float().mean()) < SETTLED:
                break
        return grid._fitted(weight, codes, h)._measured(codes), codes

    def _fitted(self, weight: Tensor, codes: Tensor, h: Tensor) -> Self:
        """The scales and zeros of the least ``sum h_j (w - q)^2`` for the ``codes``; those that would turn, kept."""
        of_column = torch.arange(len(h)) // self.group

        def mean(terms: Tensor) -> Tensor:
            return torch.zeros_like(self.scale).index_add_(1, of_column, h * terms) / mass

        mass = torch.zeros_like(self.scale).index_add_(1, of_column, h.expand_as(weight))
        c = codes - self._middle
        mean_c, mean_w = (torch.zeros_like(mass), torch.zeros_like(mass)) if self.symmetric else (mean(c), mean(weight))
        spread, common = mean(c * c) - mean_c**2, mean(c * weight) - mean_c * mean_w
        usable = (spread > 1e-12) & (common > 0)
        scale = (common / spread.where(usable, 1)).where(usable, self.scale)
        zero = -self._middle * scale if self.symmetric else mean_w - scale * mean_c
        return replace(self, scale=scale, zero=zero)

    def refitted(self, values: Tensor, error: Error) -> tuple[Self, Tensor]:
        grid, values = replace(self, scale=self.scale.clone(), zero=self.zero.clone()), values.clone()
        codes = self.all_codes(values)
        for g, start in enumerate(range(0, values.shape[1], self.group)):
            columns = slice(start, start + self.group)
            code = codes[:, columns] - self._middle
            bases = [code] if self.symmetric else [code, torch.ones_like(code)]
            steps = error.steps(values, bases, by_row=True, columns=columns)
            scale = grid.scale[:, g] + steps[:, 0]
            steps = steps * (scale > 0)[:, None]  # a negative scale would turn the order of the codes
            grid.scale[:, g] += steps[:, 0]
            grid.zero[:, g] += -(2 ** (self.width - 1)) * steps[:, 0] if self.symmetric else steps[:, 1]
            values[:, columns] += sum(steps[:, k, None] * basis for k, basis in enumerate(bases))
        return grid._measured(codes), values
