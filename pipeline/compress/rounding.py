"""Rounding a layer's weight to a grid so that its outputs change least, whatever the grid.

Legend: ``W [out, in]`` the target, ``Q`` its rounded form, ``D [in, in]`` the damped second moment of the layer's
inputs. The error to minimise is ``||(W - Q) D^(1/2)||^2 = E ||(W - Q) x||^2``, one sum for each row.

``gptq`` carries the error of each rounded column into the columns not yet rounded (Frantar et al., 2022,
arXiv:2210.17323): with ``D^-1 = U^T U``, ``U`` upper triangular in the order of rounding, ``e = (w_j - q_j) / U_jj``
and ``w_rest -= e U_j,rest``. ``coordinate`` then cycles over the columns, each the minimiser of the error given all
others, ``q_j = nearest(q_j + ((W - Q) D)_j / D_jj)`` (COMQ, Zhang et al., 2024, arXiv:2403.07134), so the error never
grows. Both fit the grid to the rounded weight in closed form.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, Self, TypeVar

import torch
from torch import Tensor

from pipeline.compress.second_moment import LayerStats, SampledStats

Rounding = Literal["nearest", "gptq", "coordinate"]
DAMPING = 0.01
"""The least ridge of ``D``, in units of the mean of ``diag C``: moments of few images are singular."""
BLOCK = 128
"""Columns after which their errors are carried on to all later columns, in one product."""
WIDEST = 6144
"""Columns up to which ``D`` is factorised whole; the errors of wider layers are carried within chunks of as many."""
PASSES = 3
"""Passes of ``gptq``, each on the grid that was fitted to the one before."""
SWEEPS = 4
"""Sweeps of ``coordinate`` over all columns."""


class Error:
    """The error of a layer's outputs, for a target ``[out, in]`` and the damped moment ``D``."""

    def __init__(self, target: Tensor, stats: LayerStats) -> None:
        self.target, self._stats = target.double(), stats.with_ridge(DAMPING)
        self.diagonal = self._stats.diagonal + self._stats.ridge
        self._moment = None if isinstance(stats, SampledStats) else self._stats.damped()  # used often

    def product(self, M: Tensor, columns: slice = slice(None)) -> Tensor:
        """Some columns of ``M D`` for ``M [n, in]``."""
        if self._moment is None:
            return self._stats.times_moment(M)[:, columns]
        product: Tensor = M @ self._moment[:, columns]
        return product

    def moment(self, columns: Tensor) -> Tensor:
        """The rows and columns of ``D`` at the indices ``columns [k]``, ``[k, k]``."""
        return self._stats.submoment(columns) if self._moment is None else self._moment[columns[:, None], columns]

    def of(self, values: Tensor) -> Tensor:
        """``E ((w - q) x)^2`` of each row, ``[out]``."""
        lost = self.target - values
        return (self.product(lost) * lost).sum(1)

    def steps(self, values: Tensor, bases: Sequence[Tensor], *, by_row: bool, columns: slice = slice(None)) -> Tensor:
        """The ``t [n, K]`` that minimise the error of ``values + sum_k t_k bases_k``, with ``n`` the rows or 1.

        Each of the ``K`` bases ``[out, k]`` changes only ``columns``. Steps along bases that are zero or parallel are
        the shortest.
        """

        def summed(terms: Tensor) -> Tensor:
            return terms.sum(1, keepdim=True) if by_row else terms.sum()[None, None]

        moment = self.moment(torch.arange(values.shape[1])[columns])
        slope = self.product(self.target - values, columns)
        products = [basis @ moment for basis in bases]
        normal = torch.stack([torch.cat([summed(product * basis) for basis in bases], 1) for product in products], 1)
        slopes = torch.cat([summed(slope * basis) for basis in bases], 1)
        ridge = 1e-9 * normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        damped = normal + ridge[:, None, None] * torch.eye(len(bases), dtype=normal.dtype)
        solved: Tensor = torch.linalg.solve(damped, slopes[:, :, None])
        return solved[:, :, 0]


class RoundingGrid(ABC):
    """The values that a weight ``[out, in]`` may take, with parameters that are fitted; a new object for each fit."""

    def runs(self, diagonal: Tensor) -> list[Tensor]:
        """The indices of columns that are decided together, in the order of rounding, given ``diag D [in]``.

        By default each column alone, the largest input first.
        """
        return list(diagonal.argsort(descending=True, stable=True)[:, None].unbind())

    def fresh(self) -> Self:
        """The grid before a pass over all columns, without what the columns of an earlier pass decided."""
        return self

    def begin(self, columns: Tensor, cost: Tensor, run: Tensor) -> None:
        """Decide what needs all columns of a run, ``[out, k]``: dropping a weight ``w_j`` costs ``w_j^2 cost_j``."""
        return

    def price(self, values: Tensor) -> float:
        """What the ``values [out, in]`` cost beside their error, in its unit."""
        return 0.0

    @abstractmethod
    def nearest(self, column: Tensor, j: int, cost: Tensor) -> Tensor:
        """The best values for column ``j``, ``[out]``, where an error ``e`` costs ``e^2 cost``: mostly the nearest."""

    @abstractmethod
    def refitted(self, values: Tensor, error: Error) -> tuple[Self, Tensor]:
        """The grid of the least error for the same codes, and their new values ``[out, in]``."""


G = TypeVar("G", bound=RoundingGrid)


def rounded(
    weight: Tensor, grid: G, nearest: Tensor, stats: LayerStats, rounding: Literal["gptq", "coordinate"]
) -> tuple[G, Tensor]:
    """Round ``weight [out, in]`` with less error than nearest rounding, or as much.

    Args:
        weight: The target.
        grid: The grid of nearest rounding.
        nearest: The values that nearest rounding gives, ``[out, in]``.
        stats: Statistics of the layer's inputs.
        rounding: The way of rounding.

    Returns:
        The fitted grid, and the values on it, float64 ``[out, in]``.
    """
    error = Error(weight, stats)
    best = grid.refitted(nearest.double(), error)
    least = float(error.of(best[1]).sum()) + best[0].price(best[1])
    for _ in range(PASSES):
        grid, values = carried(best[0], error)
        found = grid.refitted(values, error)
        if (now := float(error.of(found[1]).sum()) + found[0].price(found[1])) >= least:
            break
        best, least = found, now
    for _ in range(SWEEPS if rounding == "coordinate" else 0):
        best = best[0].refitted(_swept(*best, error), error)
    return best


def conditional_costs(grid: RoundingGrid, error: Error) -> Tensor:
    """What a squared error of each column costs where ``carried`` makes up for it in later ones, ``U_jj^-2 [in]``."""
    costs = torch.empty_like(error.diagonal)
    for runs in _chunks(grid.runs(error.diagonal), WIDEST):
        order = torch.cat(runs)
        costs[order] = torch.linalg.cholesky(error.moment(order).flip(0, 1)).diagonal().flip(0) ** 2
    return costs


def carried(grid: G, error: Error) -> tuple[G, Tensor]:
    """One pass over all columns that carries the error of each into those not yet rounded; values ``[out, in]``."""
    grid = grid.fresh()
    rest, values = error.target.clone(), torch.empty_like(error.target)
    for runs in _chunks(grid.runs(error.diagonal), WIDEST):
        order = torch.cat(runs)
        U, offset = _inverse_root(error.moment(order)), 0
        for block in _chunks(runs, BLOCK):
            columns = torch.cat(block)
            part, end = rest[:, columns], offset + len(columns)
            lost, own = torch.empty_like(part), U[offset:end, offset:end]
            starts = dict(zip(torch.tensor([0, *map(len, block)]).cumsum(0).tolist(), block, strict=False))
            for i, j in enumerate(columns.tolist()):
                if i in starts:
                    run = starts[i]
                    grid.begin(part[:, i : i + len(run)], own.diagonal()[i : i + len(run)] ** -2, run)
                values[:, j] = grid.nearest(part[:, i], j, own[i, i] ** -2)
                lost[:, i] = (part[:, i] - values[:, j]) / own[i, i]
                part[:, i + 1 :] -= lost[:, i, None] * own[i, i + 1 :]
            rest[:, order[end:]] -= lost @ U[offset:end, end:]
            offset = end
    return grid, values


def _swept(grid: RoundingGrid, values: Tensor, error: Error) -> Tensor:
    """Values whose every column was once the minimiser of the error given all others, ``[out, in]``."""
    values = values.clone()
    for runs in _chunks(grid.runs(error.diagonal), WIDEST):
        order = torch.cat(runs)
        slope, D = error.product(error.target - values)[:, order], error.moment(order)
        for i, j in enumerate(order.tolist()):
            new = grid.nearest(values[:, j] + slope[:, i] / D[i, i], j, D[i, i])
            slope -= (new - values[:, j])[:, None] * D[i]
            values[:, j] = new
    return values


def _inverse_root(D: Tensor) -> Tensor:
    """``U`` with ``U^T U = D^-1``: the inverse of ``R`` in ``D = R R^T``, both upper triangular."""
    R = torch.linalg.cholesky(D.flip(0, 1)).flip(0, 1)
    U: Tensor = torch.linalg.solve_triangular(R, torch.eye(len(D), dtype=D.dtype), upper=True)
    return U


def _chunks(runs: Sequence[Tensor], width: int) -> Iterator[list[Tensor]]:
    """The runs in order, as many together as have ``width`` columns, but at least one."""
    chunk, columns = list[Tensor](), 0
    for run in runs:
        if chunk and columns + len(run) > width:
            yield chunk
            chunk, columns = [], 0
        chunk.append(run)
        columns += len(run)
    yield chunk
