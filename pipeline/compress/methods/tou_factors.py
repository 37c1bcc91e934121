"""Two factors, the first of which stays frozen while the adapter ``tou`` trains the second."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.compress.contract import LayerStats
from pipeline.compress.factorisation import FactorMethod, FactorWeight, Truncation
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.config.registry import COMPRESSIONS


@COMPRESSIONS.register("tou")
class Tou(Truncation):
    """Two factors of rank r, one to freeze and one to train, ``Q = (U S) V``: for the adapter ``tou``."""

    frozen: FactorMethod = NoCompression()
    """The compression of the first factor, ``U S``; the second is stored in float32."""

    @property
    def sized_by_shape(self) -> bool:
        return super().sized_by_shape and self.frozen.sized_by_shape

    def compress(self, weight: Tensor, stats: LayerStats | None) -> FactorWeight:
        U, S, V = self.truncate(weight, stats)
        return FactorWeight.compressed(U * S, V, S[:0], (self.frozen, NoCompression()), weight.dtype)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> FactorWeight:
        return FactorWeight.load(tensors, shape, (self.frozen, NoCompression()))
