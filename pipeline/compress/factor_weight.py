"""A weight held as a product of two, each compressed by a method of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor

from pipeline.compress.contract import LayerCompression
from pipeline.compress.packing import part_of, side_by_side
from pipeline.compress.weight import BitCount, CompressedWeight, DenseWeight
from pipeline.config.registry import COMPRESSIONS

PairOfMethods = tuple[LayerCompression, LayerCompression]
"""What compresses the first factor, and what the second."""


@dataclass(frozen=True)
class FactorWeight(CompressedWeight):
    """``Q = first diag(values) second``.

    Args:
        first: ``[out, k]``.
        second: ``[k, in]``.
        values: ``[k]``, or ``[0]`` where none stand apart.
    """

    first: CompressedWeight
    second: CompressedWeight
    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape[0], self.second.shape[1]

    def dense(self) -> Tensor:
        return product(*self.factors)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        first = self.first.dense()
        return first * self.values if len(self.values) else first, self.second.dense()

    @property
    def bits(self) -> BitCount:
        return self.first.bits + self.second.bits + BitCount(payload=32 * len(self.values), index=32 * self._hides_rank)

    @property
    def macs(self) -> int:
        return self.first.macs + self.second.macs + len(self.values)

    @property
    def _hides_rank(self) -> bool:
        """Whether no tensor's shape says what ``k`` is, as packed factors do not."""
        seen = len(self.values) > 0 or isinstance(self.first, DenseWeight) or isinstance(self.second, DenseWeight)
        return not seen

    def to_tensors(self) -> dict[str, Tensor]:
        """``first_<kind>``, ``second_<kind>``, ``values``, and ``rank``, int32, where no shape says it."""
        packed = side_by_side({"first": self.first.to_tensors(), "second": self.second.to_tensors()})
        if len(self.values):
            packed["values"] = self.values.float()
        if self._hides_rank:
            packed["rank"] = torch.tensor([self.second.shape[0]], dtype=torch.int32)
        return packed

    def scaled_rows(self, gain: Tensor) -> Self:
        return replace(self, first=self.first.scaled_rows(gain))

    def refactored(self, first: Tensor | None, second: Tensor) -> Self:
        """The same with a trained dense ``second [k, in]`` and, where given, ``first [out, k]`` with the values."""
        if first is None:
            return replace(self, second=DenseWeight(second))
        return replace(self, first=DenseWeight(first), second=DenseWeight(second), values=self.values[:0])


def product(first: Tensor, second: Tensor) -> Tensor:
    """``first @ second``, summed in float64: float32 sums would differ with where their operands lie in memory."""
    return (first.double() @ second.double()).to(first.dtype)


def compress_factors(
    first: Tensor, second: Tensor, values: Tensor, methods: PairOfMethods, dtype: torch.dtype
) -> FactorWeight:
    """Round float64 factors to ``dtype`` and compress each by its method."""
    own, other = (
        method.compress(factor.to(dtype).contiguous(), None)
        for method, factor in zip(methods, (first, second), strict=True)
    )
    return FactorWeight(own, other, values.to(dtype))


def load_factors(tensors: Mapping[str, Tensor], shape: tuple[int, int], methods: PairOfMethods) -> FactorWeight:
    """Load what ``FactorWeight.to_tensors`` gave, the factors having been compressed by these methods."""
    own, other = part_of(tensors, "first"), part_of(tensors, "second")
    values = tensors.get("values", torch.empty(0))
    if len(values):
        k = len(values)
    elif "dense" in own:
        k = own["dense"].shape[1]
    elif "dense" in other:
        k = len(other["dense"])
    else:
        k = int(tensors["rank"])
    first, second = methods
    return FactorWeight(first.load_weight(own, (shape[0], k), 1), second.load_weight(other, (k, shape[1]), 1), values)


def _without_statistics(table: object) -> LayerCompression:
    method = COMPRESSIONS.parse(table)
    if not isinstance(method, LayerCompression):
        raise ValueError(f"'{method.name}' does not compress a matrix by itself; choose one that does, as 'intN'")
    if method.needs_statistics:
        raise ValueError(
            f"'{method.name}' with these options needs statistics of a layer's inputs, and a factor has none; choose "
            f"options that need none"
        )
    return method


FactorMethod = Annotated[SerializeAsAny[LayerCompression], BeforeValidator(_without_statistics)]
"""The compression of a factor: a layer method that needs no statistics; ``"none"`` leaves it dense."""
