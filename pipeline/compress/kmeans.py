"""K-means (Lloyd, 1982) with a k-means++ start (Arthur and Vassilvitskii, 2007), each coordinate with a weight.

Legend: ``n`` points ``X [n, d]``, their weights ``M [n, d]``, ``k`` centroids ``C [k, d]``; the error that falls is
``sum_i sum_j M_ij (X_ij - C_a(i)j)^2``, where ``a(i)`` is the nearest centroid in that sense.
"""

import torch
from torch import Tensor

SAMPLED = 2**16
"""Points at most that the start is drawn from and that the first rounds fit; the last rounds fit all of them."""
AT_ONCE = 2**17
"""Distances that are computed at once, which stay in a cache."""
ROUNDS, LAST_ROUNDS = 30, 3
"""Rounds of several coordinates; those of one coordinate take next to nothing, and go on until nothing changes."""


def kmeans(points: Tensor, k: int, weights: Tensor | None = None) -> Tensor:
    """Centroids ``[k, d]`` in ascending order of their first coordinate; the same at every call."""
    if points.shape[1] == 1:
        weights = torch.ones_like(points) if weights is None else weights
        return _of_numbers(points[:, 0].double(), k, weights[:, 0].double())[:, None].to(points.dtype)
    X, M = points.float(), (torch.ones_like(points) if weights is None else weights).float()
    M = M / M.mean().clamp_min(torch.finfo(M.dtype).tiny)
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(len(X), generator=generator)[:SAMPLED]
    C = _lloyd(X[some], _plus_plus(X[some], k, M[some], generator), M[some], ROUNDS)
    C = _lloyd(X, C, M, LAST_ROUNDS) if len(some) < len(X) else C
    return C[C[:, 0].argsort(stable=True)].to(points.dtype)


def _lloyd(X: Tensor, C: Tensor, M: Tensor, rounds: int) -> Tensor:
    """Centroids after at most so many rounds; one without members moves to a point of the largest error."""
    for _ in range(rounds):
        nearest, errors = _nearest(X, C, M)
        moved = means(X, nearest, C, M)
        empty = (torch.bincount(nearest, minlength=len(C)) == 0).nonzero().flatten()[: len(X)]
        moved[empty] = X[errors.topk(len(empty)).indices]
        if torch.equal(moved, C):
            break
        C = moved
    return C


def means(X: Tensor, nearest: Tensor, C: Tensor, M: Tensor) -> Tensor:
    """The weighted means of the members of each centroid; one without members stays where it is."""
    total = torch.zeros_like(C).index_add_(0, nearest, M)
    sums = torch.zeros_like(C).index_add_(0, nearest, M * X)
    return torch.where(total > 0, sums / total.where(total > 0, 1), C)


def nearest_centroids(
    points: Tensor, centroids: Tensor, weights: Tensor | None = None, prices: Tensor | None = None
) -> Tensor:
    """The index of the nearest centroid of each point, ``[n]``; without weights all coordinates weigh the same.

    The ``prices [k]`` of centroids are added to the errors. ``torch.vmap`` can be applied to it.
    """
    M = None if weights is None else weights.float()
    return _nearest(points.float(), centroids.float(), M, prices)[0]


def _nearest(X: Tensor, C: Tensor, M: Tensor | None, prices: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Indices and errors ``[n]``: ``sum_j M (X - C)^2 = sum_j M X^2 + [M X, M] [-2 C, C^2]^T``, and ``prices [k]``."""
    if M is None:
        rows, columns = torch.cat([X, torch.ones_like(X[:, :1])], 1), [-2 * C, C.square().sum(1, keepdim=True)]
        own = X.square().sum(1)
    else:
        rows, columns, own = torch.cat([M * X, M], 1), [-2 * C, C.square()], (M * X.square()).sum(1)
    terms, found = torch.cat(columns, 1), []
    for part in torch.split(rows, max(1, AT_ONCE // len(C))):
        distances = terms @ part.T if prices is None else torch.addmm(prices[:, None], terms, part.T)
        found.append(_first_least(distances))
    nearest, errors = (torch.cat(parts) for parts in zip(*found, strict=True))
    return nearest, own + errors


def _first_least(columns: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the first least number of each column of ``[k, n]``, int64, and that number, both ``[n]``.

    ``min`` with indices takes three times as long, because it compares numbers one by one. It changes ``columns``.
    """
    least, k = columns.amin(0), len(columns)
    index = torch.arange(k, dtype=columns.dtype, device=columns.device)[:, None]
    above = columns.sub_(least).sign_()  # 0 where it is the least, else 1
    return torch.add(index, above, alpha=k).amin(0).nan_to_num(0).long(), least


def _plus_plus(X: Tensor, k: int, M: Tensor, generator: torch.Generator) -> Tensor:
    """A start: points drawn one after another, each in proportion to its error so far."""
    errors, chosen = M.sum(1).double(), list[Tensor]()
    for _ in range(k):
        reached = errors.clamp_min(0).cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * reached[-1]
        chosen.append(X[torch.searchsorted(reached, drawn).clamp_max(len(X) - 1)])
        error = (M * (X - chosen[-1]).square()).sum(1).double()
        errors = error if len(chosen) == 1 else torch.minimum(errors, error)
    return torch.cat(chosen)


def _of_numbers(x: Tensor, k: int, m: Tensor) -> Tensor:
    """K-means of numbers ``x [n]`` of weights ``m [n]``: the best of several starts, ``[k]`` in ascending order.

    The members of a centroid are neighbours in sorted order, and their sums differences of running sums.
    """
    if not m.any():
        m = torch.ones_like(m)
    x, order = x.sort()
    m = m[order]
    nothing = x.new_zeros(1)
    mass, first, second = (torch.cat([nothing, part.cumsum(0)]) for part in (m, m * x, m * x * x))
    steps = (torch.arange(k, dtype=x.dtype) + 0.5) / k
    middle = torch.searchsorted(mass[1:], steps * mass[-1]).clamp_max(len(x) - 1)
    quantiles, even = x[middle], x[0] + steps * (x[-1] - x[0])
    best, least = quantiles, torch.inf
    for level in (quantiles, even, (quantiles + even) / 2):
        for _ in range(500):
            ends = torch.cat(
                [nothing.long(), torch.searchsorted(x, (level[1:] + level[:-1]) / 2), nothing.long() + len(x)]
            )
            masses, sums, squares = (part[ends[1:]] - part[ends[:-1]] for part in (mass, first, second))
            moved = torch.where(masses > 0, sums / masses.where(masses > 0, 1), level).cummax(0).values
            if torch.equal(moved, level):
                break
            level = moved
        error = float((squares - sums * sums / masses.where(masses > 0, 1)).sum())
        if error < least:
            best, least = level, error
    return best
