"""Rounding to a sparse matrix: which weights are kept is decided with the values, column by column."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.compress.few_bits import EvenGrid, Grid
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

    def nearest(self, column: Tensor, j: int) -> Tensor:
        return self.points(column[:, None])[:, 0] * self.kept[:, j]

    def points(self, values: Tensor) -> Tensor:
        """The values of the kept values' grid nearest to ``values [out, n]``."""
        if self.grid is None or self.parameters is None:
            return values
        return self.grid.points(self.grid.nearest(values, self.parameters), self.parameters)

    def refitted(self, values: Tensor, error: Error) -> tuple[Self, Tensor]:
        if self.grid is None or self.parameters is None:
            return self, values
        codes, by_row = self.grid.nearest(values, self.parameters), isinstance(self.grid, EvenGrid) and self.grid.by_row
        bases = [self.grid.points(codes, unit) * self.kept for unit in self._units(self.parameters)]
        if len(bases) > MOST_LEVELS:
            return self, values
        steps = error.steps(values, bases, by_row=by_row)
        parameters, k = dict(self.parameters), 0
        for name, tensor in self.parameters.items():
            width = 1 if isinstance(self.grid, EvenGrid) else len(tensor)
            parameters[name] = tensor + steps[:, k : k + width].reshape(tensor.shape)
            k += width
        if isinstance(self.grid, EvenGrid):  # a negative magnitude would turn the order of the codes
            usable = torch.stack([tensor >= 0 for tensor in parameters.values()]).all(0)
            parameters = {name: tensor.where(usable, self.parameters[name]) for name, tensor in parameters.items()}
        grid = replace(self, parameters=parameters)
        return grid, self.grid.points(codes, parameters) * self.kept

    def _units(self, parameters: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """Parameters that are zero but for one, which is 1; the values are sums of what they give."""
        zeros = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        for name, tensor in parameters.items():
            if isinstance(self.grid, EvenGrid):
                yield {**zeros, name: torch.ones_like(tensor)}
            else:
                yield from ({**zeros, name: unit} for unit in torch.eye(len(tensor), dtype=tensor.dtype))
