"""A weight stored as a product of two factors, each compressed by a method of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor

from pipeline.compress.contract import LayerCompression
from pipeline.compress.packing import join_parts, select_part
from pipeline.compress.weight import CompressedWeight, DenseWeight
from pipeline.config.registry import COMPRESSIONS

FactorMethods = tuple[LayerCompression, LayerCompression]
"""The compressions of the first and of the second factor."""


@dataclass(frozen=True)
class FactorWeight(CompressedWeight):
    """``Q = first diag(values) second``.

    Args:
        first: ``[out, k]``.
        second: ``[k, in]``.
        values: ``[k]``, or ``[0]`` if the factors contain the singular values.
    """

    first: CompressedWeight
    second: CompressedWeight
    values: Tensor

    def dense(self) -> Tensor:
        return product(*self.factors)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        first = self.first.dense()
        return first * self.values if len(self.values) else first, self.second.dense()

    @property
    def macs(self) -> int:
        return self.first.macs + self.second.macs + len(self.values)

    def to_tensors(self) -> dict[str, Tensor]:
        """``first_<kind>``, ``second_<kind>``, ``values``, and an int32 ``rank`` if no shape of the others gives it."""
        packed = join_parts({"first": self.first.to_tensors(), "second": self.second.to_tensors()})
        if len(self.values):
            packed["values"] = self.values.float()
        elif not isinstance(self.first, DenseWeight) and not isinstance(self.second, DenseWeight):
            packed["rank"] = torch.tensor([self.second.shape[0]], dtype=torch.int32)
        return packed

    def scaled_rows(self, gain: Tensor) -> Self:
        return replace(self, first=self.first.scaled_rows(gain))

    def with_factors(self, first: Tensor | None, second: Tensor) -> Self:
        """The weight with other, dense factors.

        Args:
            first: ``[out, k]``, with the singular values in it; ``None`` keeps the first factor and the values.
            second: ``[k, in]``.
        """
        if first is None:
            return replace(self, second=DenseWeight(second))
        return replace(self, first=DenseWeight(first), second=DenseWeight(second), values=self.values[:0])


def product(first: Tensor, second: Tensor) -> Tensor:
    """``first @ second`` in the dtype of ``first``, summed in float64.

    Sums in float32 would depend on how the operands lie in memory, and a loaded model would differ in the last bit.
    """
    return (first.double() @ second.double()).to(first.dtype)


def compress_factors(
    first: Tensor, second: Tensor, values: Tensor, methods: FactorMethods, dtype: torch.dtype
) -> FactorWeight:
    """Round float64 factors, of the shapes in ``FactorWeight``, to ``dtype`` and compress each with its method."""
    packed_first, packed_second = (
        method.compress(factor.to(dtype).contiguous(), None)
        for method, factor in zip(methods, (first, second), strict=True)
    )
    return FactorWeight(packed_first, packed_second, values.to(dtype))


def load_factors(tensors: Mapping[str, Tensor], shape: tuple[int, int], methods: FactorMethods) -> FactorWeight:
    """Read back what ``FactorWeight.to_tensors`` gave for a weight of ``shape``."""
    parts = [select_part(tensors, "first"), select_part(tensors, "second")]
    values = tensors.get("values", torch.empty(0))
    if len(values):
        k = len(values)
    elif "dense" in parts[0]:
        k = parts[0]["dense"].shape[1]
    elif "dense" in parts[1]:
        k = len(parts[1]["dense"])
    else:
        k = int(tensors["rank"])
    first = methods[0].load_weight(parts[0], (shape[0], k), 1)
    return FactorWeight(first, methods[1].load_weight(parts[1], (k, shape[1]), 1), values)


def _parse_factor_method(table: object) -> LayerCompression:
    method = COMPRESSIONS.parse(table)
    if not isinstance(method, LayerCompression):
        raise ValueError(
            f"'{method.name}' compresses whole models and cannot compress a factor; choose a compression of single "
            f"layers, such as 'intN'"
        )
    if method.needs_statistics:
        raise ValueError(
            f"'{method.name}' with these options needs statistics of the layer's inputs, which a factor does not have; "
            f'choose options that need none, such as metric = "weight"'
        )
    return method


FactorMethod = Annotated[SerializeAsAny[LayerCompression], BeforeValidator(_parse_factor_method)]
"""The compression of a factor: a layer method that needs no statistics; ``"none"`` stores the factor in float32."""
