"""No compression: the reference for all other methods."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.weight import DenseWeight
from pipeline.config.registry import COMPRESSIONS


@COMPRESSIONS.register("none")
class NoCompression(LayerCompression):
    """Leaves every weight as it is, ``Q = W``: to see what an adapter does by itself."""

    def compress(self, weight: Tensor, stats: LayerStats | None) -> DenseWeight:
        return DenseWeight(weight.clone())

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> DenseWeight:
        return DenseWeight(tensors["dense"].reshape(shape))
