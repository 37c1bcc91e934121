"""No compression: the reference that every method is held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from pipeline.compress.contract import BitCount, CompressedWeight, LayerCompression, LayerStats
from pipeline.registry import COMPRESSIONS


@dataclass(frozen=True)
class DenseWeight(CompressedWeight):
    """The weight as it is, 32 bits each."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def dense(self) -> Tensor:
        return self.weight

    @property
    def bits(self) -> BitCount:
        return BitCount(payload=32 * self.weight.numel())

    @property
    def macs(self) -> int:
        return self.weight.numel()

    def to_tensors(self) -> dict[str, Tensor]:
        return {"dense": self.weight.float()}

    def scaled_rows(self, gain: Tensor) -> Self:
        return type(self)(self.weight * gain.to(self.weight)[:, None])


@COMPRESSIONS.register("none")
class NoCompression(LayerCompression):
    """The dense weight, for reference: ``Q = W``."""

    def compress(self, weight: Tensor, stats: LayerStats | None) -> DenseWeight:
        return DenseWeight(weight.clone())

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> DenseWeight:
        return DenseWeight(tensors["dense"].reshape(shape))
