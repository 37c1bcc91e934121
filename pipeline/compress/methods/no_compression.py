"""No compression: the reference for all other methods."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.weight import DenseWeight
from pipeline.config.registry import COMPRESSIONS


@COMPRESSIONS.register("none")
class NoCompression(LayerCompression):
    """The dense weight, for reference: ``Q = W``."""

    def compress(self, weight: Tensor, stats: LayerStats | None) -> DenseWeight:
        return DenseWeight(weight.clone())

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> DenseWeight:
        return DenseWeight(tensors["dense"].reshape(shape))
