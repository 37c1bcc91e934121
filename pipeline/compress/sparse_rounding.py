"""Rounding to a sparse matrix: which weights are kept is decided with the values, column by column."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.compress.few_bits import Grid, MagnitudeGrid
from pipeline.compress.rounding import BLOCK, Error, RoundingGrid
from pipeline.compress.sparsity import Blocks, Pattern

MOST_LEVELS = 16
"""Levels up to which they are fitted to the layer's outputs; each takes a product of the weight with ``D``."""


@dataclass(frozen=True)
class SparseGrid(RoundingGrid):
    """Kept weights, of any value or on a grid of few bits, and zeros.

    A run of columns, as wide as a block, keeps the weights whose loss costs most (SparseGPT, Frantar and Alistarh,
    2023, arXiv:2301.00774). Of a share of all weights, each run keeps as many as ``start`` does there.
    """

    pattern: Pattern
    start: Tensor  # bool [out, in], positions by which the number of each run is counted
    kept: Tensor  # bool [out, in], decided so far
    grid: Grid | None = None  # of the kept values
    parameters: Mapping[str, Tensor] | None = None

    def fresh(self) -> Self:
        return replace(self, kept=torch.zeros_like(self.kept))

    def runs(self, diagonal: Tensor) -> list[Tensor]:
        if not isinstance(self.pattern, Blocks):
            return list(torch.split(diagonal.argsort(descending=True, stable=True), BLOCK))
        runs = torch.split(torch.arange(len(diagonal)), self.pattern.width)
        return sorted(runs, key=lambda run: -float(diagonal[run].mean()))

    def begin(self, columns: Tensor, cost: Tensor, run: Tensor) -> None:
        scores = columns.square() * cost
        if isinstance(self.pattern, Blocks):
            self.kept[:, run] = self.pattern.kept(scores)
        else:
            flat = torch.zeros(scores.numel(), dtype=torch.bool)
            flat[scores.flatten().topk(int(self.start[:, run].sum())).indices] = True
            self.kept[:, run] = flat.view(scores.shape)

    def nearest(self, column: Tensor, j: int, cost: Tensor) -> Tensor:
        return self.points(column[:, None])[:, 0] * self.kept[:, j]

    def points(self, values: Tensor) -> Tensor:
        """The values of the kept values' grid nearest to ``values [out, n]``."""
        if self.grid is None or self.parameters is None:
            return values
        return self.grid.points(self.grid.nearest(values, self.parameters), self.parameters)

    def refitted(self, values: Tensor, error: Error) -> tuple[Self, Tensor]:
        if self.grid is None or self.parameters is None:
            return self, values
        if isinstance(self.grid, MagnitudeGrid):
            return self._refitted_magnitudes(self.grid, self.parameters, values, error)
        level = self.parameters["level"].sort().values
        if len(level) > MOST_LEVELS:
            return self, values
        codes = self.grid.nearest(values, self.parameters)
        chosen = [((codes == code) & self.kept).double() for code in range(len(level))]
        level = level + error.steps(values, chosen, by_row=False)[0]
        fitted = torch.stack([part * value for part, value in zip(chosen, level, strict=True)]).sum(0)
        return replace(self, parameters={"level": level}), fitted

    def _refitted_magnitudes(
        self, grid: MagnitudeGrid, parameters: Mapping[str, Tensor], values: Tensor, error: Error
    ) -> tuple[Self, Tensor]:
        codes, zeros = grid.nearest(values, parameters), {k: torch.zeros_like(t) for k, t in parameters.items()}
        units = [{**zeros, name: torch.ones_like(tensor)} for name, tensor in parameters.items()]
        steps = error.steps(values, [grid.points(codes, unit) * self.kept for unit in units], by_row=grid.by_row)
        moved = {name: tensor + steps[:, k, None] for k, (name, tensor) in enumerate(parameters.items())}
        usable = torch.stack([tensor >= 0 for tensor in moved.values()]).all(0)  # else the order of codes would turn
        moved = {name: tensor.where(usable, parameters[name]) for name, tensor in moved.items()}
        return replace(self, parameters=moved), grid.points(codes, moved) * self.kept
