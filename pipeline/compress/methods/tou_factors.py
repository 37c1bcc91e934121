"""A weight as two factors of which the second is there to be trained, and the first to stay."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.compress.contract import LayerStats
from pipeline.compress.factor_weight import FactorMethod, FactorWeight, compress_factors, load_factors
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.truncation import Truncation
from pipeline.config.registry import COMPRESSIONS


@COMPRESSIONS.register("tou")
class Tou(Truncation):
    """Two factors of rank r, one to freeze and one to train: ``Q = (U S) V``."""

    frozen: FactorMethod = NoCompression()
    """How the first factor, ``U S``, is compressed; the second stays dense."""

    @property
    def sized_by_shape(self) -> bool:
        return super().sized_by_shape and self.frozen.sized_by_shape

    def compress(self, weight: Tensor, stats: LayerStats | None) -> FactorWeight:
        U, S, V = self.decomposed(weight, stats)
        r = self.kept_rank(S, (weight.shape[0], weight.shape[1]))
        methods = (self.frozen, NoCompression())
        return compress_factors(U[:, :r] * S[:r], V[:r], S[:0], methods, weight.dtype)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> FactorWeight:
        return load_factors(tensors, shape, (self.frozen, NoCompression()))
