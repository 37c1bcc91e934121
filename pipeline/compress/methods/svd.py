"""Low-rank factors; those with the least output error are QERA's (Zhang et al., 2024, arXiv:2410.06040) and EoRA's."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.compress.contract import LayerStats
from pipeline.compress.factorisation import FactorMethod, FactorWeight, Truncation, balanced
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.config.registry import COMPRESSIONS


@COMPRESSIONS.register("svd")
class Svd(Truncation):
    """Two factors of rank r, ``Q = [W]_r = (U sqrt(S)) (sqrt(S) V)``: for fewer operations on any hardware."""

    singular_values: bool = False
    """Store ``S`` beside ``U`` and ``V``, ``r (out + in + 1)`` values; otherwise each factor contains ``sqrt(S)``."""
    factors: FactorMethod = NoCompression()
    """The compression of both factors."""

    @property
    def sized_by_shape(self) -> bool:
        return super().sized_by_shape and self.factors.sized_by_shape

    def compress(self, weight: Tensor, stats: LayerStats | None) -> FactorWeight:
        U, S, V = self.truncate(weight, stats)
        first, second, values = (U, V, S) if self.singular_values else (*balanced(U, S, V), S[:0])
        return FactorWeight.compressed(first, second, values, (self.factors, self.factors), weight.dtype)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> FactorWeight:
        return FactorWeight.load(tensors, shape, (self.factors, self.factors))
