"""The second moment of a layer's inputs, ``C = E[x x^T]``, as the methods use it: products with it and with its root.

Legend: ``n`` input vectors ``X [n, in]``, ``m = E[x]`` their mean, ``rho`` the ridge, ``D = C + rho I`` the damped
moment, ``K = D^(1/2)`` its symmetric root, so that the spectrum of ``[M_1 K_1; M_2 K_2]``, the rows of two groups one
below the other, depends on the moments alone.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

LEAST_DAMPING = 1e-6
"""The ridge, as a share of the mean of ``diag C``, that makes ``D`` invertible where some inputs are always zero."""


@dataclass(frozen=True, eq=False, repr=False)
class LayerStats:
    """Statistics of a layer's inputs over training images: the matrix ``C`` itself."""

    second_moment: Tensor  # C = E[x x^T], uncentred, float64 [in, in]
    first_moment: Tensor | None = None  # m = E[x], float64 [in]; None stands for zeros
    damping: float = LEAST_DAMPING  # rho as a share of the mean of diag C

    @property
    def mean(self) -> Tensor:
        """``m = E[x]``, float64 ``[in]``."""
        return torch.zeros_like(self.diagonal) if self.first_moment is None else self.first_moment

    @property
    def reference_mean(self) -> Tensor:
        """``E[x]`` in the uncompressed model, float64 ``[in]``; by default the inputs are those of that model."""
        return self.mean

    def target(self, weight: Tensor) -> Tensor:
        """What a compressed weight has to be near, ``[out, in]``, for the outputs of ``weight [out, in]``; itself."""
        return weight

    def centred(self) -> "LayerStats":
        """The statistics of ``x - m``: ``C - m m^T``, the moment of what a corrected bias leaves of an error."""
        return LayerStats(self.second_moment - self.mean.outer(self.mean), damping=self.damping)

    def with_ridge(self, ridge: float) -> "LayerStats":
        """The statistics whose ridge is at least ``ridge`` times the mean of ``diag C``; they themselves if it is."""
        return self if ridge <= self.damping else replace(self, damping=ridge)

    @cached_property
    def diagonal(self) -> Tensor:
        """``E[x_i^2]``, float64 ``[in]``."""
        return self.second_moment.diagonal()

    @property
    def ridge(self) -> Tensor:
        """``rho = damping * mean(diag C)``, which is added to all eigenvalues of ``C``."""
        return self.damping * self.diagonal.mean().clamp_min(1e-12)

    def damped(self) -> Tensor:
        """``D = C + rho I``, ``[in, in]``; it is invertible even if some inputs are always zero (dead pixels)."""
        return self.second_moment + self.ridge * torch.eye(len(self.second_moment), dtype=self.second_moment.dtype)

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``[in]`` of ``damped()``, positive and in ascending order, and eigenvectors ``[in, in]``."""
        values, vectors = torch.linalg.eigh(self.damped().double())
        return values.clamp_min(self.ridge), vectors

    def times_moment(self, M: Tensor) -> Tensor:
        """``M D`` for ``M [m, in]``."""
        return M @ self.damped()

    def times_root(self, M: Tensor) -> Tensor:
        """``M K`` for ``M [m, in]``, float64; its squared norm is ``E ||M x||^2`` but for the ridge."""
        return self._times_power(M, 0.5)

    def times_inverse_root(self, M: Tensor) -> Tensor:
        """``M K^-1`` for ``M [m, in]``, float64."""
        return self._times_power(M, -0.5)

    def _times_power(self, M: Tensor, power: float) -> Tensor:
        """``M D^power``, float64."""
        values, V = self.eigen
        return (M.to(V) @ V * values**power) @ V.T

    def submoment(self, support: Tensor) -> Tensor:
        """The rows and columns of ``D`` at the indices ``support [k]``, ``[k, k]``."""
        return self.damped()[support[:, None], support]

    def directions(self, rank: int) -> Tensor:
        """The first ``rank`` eigenvectors of ``C``, by falling eigenvalue, as rows ``[rank, in]``."""
        return self.eigen[1].T.flip(0)[:rank]


class SampledStats(LayerStats):
    """The second moment ``C = X^T X / n`` of some input vectors, held as these vectors ``X``.

    With ``X^T = V S U`` (a QR decomposition, then an SVD of its small factor), ``C = V diag(l) V^T`` for
    ``l = S^2 / n``, and the root is ``K = sqrt(rho) I + V diag(sqrt(l + rho) - sqrt(rho)) V^T``. Both are
    exact. They take ``n in`` values, where ``C`` takes ``in^2``.
    """

    vectors: Tensor  # [n, in]

    def __init__(self, vectors: Tensor, damping: float = LEAST_DAMPING) -> None:
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "damping", damping)

    @cached_property
    def mean(self) -> Tensor:
        return self.vectors.double().sum(0) / max(1, len(self.vectors))

    def centred(self) -> LayerStats:
        return SampledStats(self.vectors - self.mean.to(self.vectors), self.damping)

    def with_ridge(self, ridge: float) -> LayerStats:
        return self if ridge <= self.damping else SampledStats(self.vectors, ridge)

    @property
    def second_moment(self) -> Tensor:
        """``C``, computed at each call; ``[in, in]`` may be large."""
        X = self.vectors.double()
        return X.T @ X / max(1, len(X))

    @cached_property
    def diagonal(self) -> Tensor:
        return self.vectors.double().square().sum(0) / max(1, len(self.vectors))

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """``l [k]``, in falling order, and ``V [in, k]`` for ``k = min(n, in)``, float64."""
        Q, R = torch.linalg.qr(self.vectors.double().T)
        U, S, _ = torch.linalg.svd(R, full_matrices=False)
        return S.square() / max(1, len(self.vectors)), Q @ U

    def times_moment(self, M: Tensor) -> Tensor:
        X = self.vectors.to(M)
        return (M @ X.T) @ X / max(1, len(X)) + self.ridge * M

    def _times_power(self, M: Tensor, power: float) -> Tensor:
        """``M D^power = rho^power M + M V diag((l + rho)^power - rho^power) V^T``."""
        values, V = self.factors
        rest = self.ridge**power
        M = M.to(V)
        return rest * M + (M @ V * ((values + self.ridge) ** power - rest)) @ V.T

    def submoment(self, support: Tensor) -> Tensor:
        X = self.vectors[:, support].double()
        return X.T @ X / max(1, len(X)) + self.ridge * torch.eye(len(support), dtype=X.dtype)

    def directions(self, rank: int) -> Tensor:
        _, V = self.factors
        if rank > V.shape[1]:  # no input vector lies in further directions, so any orthogonal ones will do
            generator = torch.Generator().manual_seed(0)
            more = torch.randn(len(V), rank - V.shape[1], generator=generator, dtype=V.dtype)
            V = torch.cat([V, torch.linalg.qr(more - V @ (V.T @ more)).Q], 1)
        return V.T[:rank]
