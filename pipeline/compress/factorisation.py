"""Truncated singular value decompositions (Eckart and Young, 1936), and weights stored as a product of two factors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.packing import join_parts, select_part
from pipeline.compress.weight import CompressedWeight, DenseWeight
from pipeline.compress.weight_parts import WeightOfParts
from pipeline.config.registry import COMPRESSIONS

RANK_OPTIONS = ("rank", "energy", "budget")


class Truncation(LayerCompression):
    """A method that keeps the r largest singular values, ``1 <= r <= min(out, in)``."""

    rank: int | None = Field(None, ge=1)
    """r itself; a layer with fewer singular values keeps all of them."""
    energy: float | None = Field(None, gt=0, le=1)
    """The least r that keeps this share of ``sum s_i^2`` (of ``W C^(1/2)`` if metric is "activation")."""
    budget: float | None = Field(None, gt=0, le=1)
    """The largest r with ``r (out + in) <= budget * out * in``; 0.5 if none of the three options is given."""
    metric: Literal["weight", "activation"] = "weight"
    """``[W]_r``, or ``[W C^(1/2)]_r C^(-1/2)``, the rank-r matrix with the least squared error of the outputs."""

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, value: Any) -> Any:
        none_given = isinstance(value, dict) and all(value.get(name) is None for name in RANK_OPTIONS)
        return {**value, "budget": 0.5} if none_given else value

    @model_validator(mode="after")
    def _at_most_one(self) -> "Truncation":
        given = {name: getattr(self, name) for name in RANK_OPTIONS if getattr(self, name) is not None}
        if len(given) > 1:
            listed = ", ".join(f"{name} = {value}" for name, value in given.items())
            raise ValueError(f"{listed}: each alone decides the rank; give one of {', '.join(RANK_OPTIONS)}")
        return self

    @property
    def needs_statistics(self) -> bool:
        return super().needs_statistics or self.metric == "activation"

    @property
    def sized_by_shape(self) -> bool:
        return self.energy is None

    def decompose(self, weight: Tensor, stats: LayerStats | None) -> tuple[Tensor, Tensor, Tensor]:
        """The whole decomposition ``U diag(S) V = W``: ``U [out, k]``, ``S [k]`` descending and ``V [k, in]``, float64.

        With metric "activation", ``S`` are the singular values of ``W C^(1/2)``, and ``V`` contains ``C^(-1/2)``.
        """
        if stats is None or self.metric == "weight":
            U, S, V = torch.linalg.svd(weight.double(), full_matrices=False)
            return U, S, V
        U, S, V = torch.linalg.svd(stats.times_root(weight.double()), full_matrices=False)
        return U, S, stats.times_inverse_root(V)

    def truncate(self, weight: Tensor, stats: LayerStats | None) -> tuple[Tensor, Tensor, Tensor]:
        """The leading part of ``decompose``: ``U [out, r]``, ``S [r]`` and ``V [r, in]``."""
        U, S, V = self.decompose(weight, stats)
        r = self.kept_rank(S, (weight.shape[0], weight.shape[1]))
        return U[:, :r], S[:r], V[:r]

    def kept_rank(self, values: Tensor, shape: tuple[int, int]) -> int:
        """The rank r for a weight of ``shape`` with the singular values ``values``, in descending order."""
        out, inner = shape
        if self.rank is not None:
            r = self.rank
        elif self.energy is not None:
            energies = values.square().cumsum(0)
            r = 1 + int((energies < self.energy * energies[-1]).sum())
        elif self.budget is not None:
            r = int(self.budget * out * inner / (out + inner))
        return max(1, min(r, out, inner))


def balanced(U: Tensor, S: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """``(U sqrt(S), sqrt(S) V)``, ``[out, r]`` and ``[r, in]``, whose product is ``U diag(S) V``."""
    root = S.sqrt()
    return U * root, root[:, None] * V


def best_product(matrix: Tensor, rank: int, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """``A [r, in]`` and ``B [out, r]`` with ``B A = [M]_r`` (Eckart and Young, 1936), and ``sqrt(S)`` in each; float64.

    A row of ``A`` is never zero, because then neither factor would ever get a gradient. Where a singular value is
    zero, the row of ``A`` is its singular vector with length 1, and the column of ``B`` is zero. If the whole matrix is
    zero, the singular vectors of ``fallback`` are used: those of the weight lie in the inputs that the layer uses.
    """
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    if not S.any():
        Vh = torch.linalg.svd(fallback.double(), full_matrices=False).Vh
    root = S[:rank].sqrt()
    return torch.where(root > 0, root, 1)[:, None] * Vh[:rank], U[:, :rank] * root


FactorMethods = tuple[LayerCompression, LayerCompression]
"""The compressions of the first and of the second factor."""


@dataclass(frozen=True)
class FactorWeight(WeightOfParts):
    """``Q = first diag(values) second``."""

    first: CompressedWeight  # [out, k]
    second: CompressedWeight  # [k, in]
    values: Tensor  # [k], or [0] if the factors contain the singular values

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.first.shape[0], self.second.shape[1]

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
        packed = super().to_tensors()
        if len(self.values):
            packed["values"] = self.values.float()
        elif not isinstance(self.first, DenseWeight) and not isinstance(self.second, DenseWeight):
            packed["rank"] = torch.tensor([self.second.shape[0]], dtype=torch.int32)
        return packed

    @property
    def parts(self) -> Mapping[str, CompressedWeight]:
        return {"first": self.first, "second": self.second}

    def with_parts(self, parts: Mapping[str, CompressedWeight]) -> Self:
        return replace(self, first=parts["first"], second=parts["second"])

    def scaled_rows(self, gain: Tensor) -> Self:
        return replace(self, first=self.first.scaled_rows(gain))

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        """Those of both factors, which begin at their rounded values, and ``values``."""
        parts = {name: factor.to_trainable(factor.dense()) for name, factor in self.parts.items()}
        return {**join_parts(parts), **({"values": self.values} if len(self.values) else {})}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return product(*self.trained_factors(tensors))

    def unrounded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return product(*self.trained_factors(tensors, relaxed=True))

    def trained_factors(self, tensors: Mapping[str, Tensor], *, relaxed: bool = False) -> tuple[Tensor, Tensor]:
        """``factors`` of the codes of ``tensors`` as ``project`` gives them, or as ``unrounded`` does."""
        pairs = [(factor, select_part(tensors, name)) for name, factor in self.parts.items()]
        first, second = (factor.unrounded(own) if relaxed else factor.project(own) for factor, own in pairs)
        return first * tensors["values"] if "values" in tensors else first, second

    def with_trained(self, tensors: Mapping[str, Tensor]) -> Self:
        return replace(super().with_trained(tensors), values=tensors.get("values", self.values))

    def with_factors(self, first: Tensor | None, second: Tensor) -> Self:
        """The weight with other, dense factors; ``None`` keeps the first factor and the values."""
        if first is None:
            return replace(self, second=DenseWeight(second))
        return replace(self, first=DenseWeight(first), second=DenseWeight(second), values=self.values[:0])

    @classmethod
    def compressed(
        cls, first: Tensor, second: Tensor, values: Tensor, methods: FactorMethods, dtype: torch.dtype
    ) -> Self:
        """Round float64 factors to ``dtype`` and compress each with its method."""
        pairs = zip(methods, (first, second), strict=True)
        factors = [method.compress(factor.to(dtype).contiguous(), None) for method, factor in pairs]
        return cls(factors[0], factors[1], values.to(dtype))

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], shape: tuple[int, int], methods: FactorMethods) -> Self:
        """Read back what ``to_tensors`` gave for a weight of ``shape``."""
        first, second = select_part(tensors, "first"), select_part(tensors, "second")
        values = tensors.get("values", torch.empty(0))
        if len(values):
            k = len(values)
        elif "dense" in first:
            k = first["dense"].shape[1]
        else:
            k = len(second["dense"]) if "dense" in second else int(tensors["rank"])
        shapes = (shape[0], k), (k, shape[1])
        return cls(methods[0].load_weight(first, shapes[0], 1), methods[1].load_weight(second, shapes[1], 1), values)


def product(first: Tensor, second: Tensor) -> Tensor:
    """``first @ second`` in the dtype of ``first``, summed in float64.

    Sums in float32 would depend on how the operands lie in memory, and a loaded model would differ in the last bit.
    """
    return (first.double() @ second.double()).to(first.dtype)


OF_FACTORS = COMPRESSIONS.narrowed("compression of a factor", lambda method: issubclass(method, LayerCompression))
"""All compressions but those of whole models."""


def _parse_factor_method(table: object) -> LayerCompression:
    method = cast(LayerCompression, OF_FACTORS.parse(table))
    if method.needs_statistics:
        raise ValueError(
            f"'{method.name}' with these options needs statistics of the layer's inputs, which a factor does not have; "
            f'choose options that need none, such as metric = "weight"'
        )
    if method.shared_kinds:
        raise ValueError(
            f"'{method.name}' with these options shares {', '.join(method.shared_kinds)} among layers, which a factor "
            f"cannot; leave shared out"
        )
    return method


FactorMethod = Annotated[SerializeAsAny[LayerCompression], BeforeValidator(_parse_factor_method)]
"""The compression of a factor: a layer method that needs no statistics; ``"none"`` stores the factor in float32."""
