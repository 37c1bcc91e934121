"""A sum of low-rank products, each fitted to what the earlier ones leave of the weight, rounding errors included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor

from pipeline.compress.contract import LayerStats
from pipeline.compress.factorisation import FactorMethods, FactorWeight, Truncation, balanced, product
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.packing import join_parts, select_part
from pipeline.compress.weight import CompressedWeight
from pipeline.compress.weight_parts import WeightOfParts
from pipeline.config.registry import COMPRESSIONS

METHODS_BY_BITS: dict[int, FactorMethods] = {
    32: (NoCompression(), NoCompression()),
    8: (IntN(bits=8), IntN(bits=8)),
    1: (Int1(), Int1()),
}


@dataclass(frozen=True)
class SumWeight(WeightOfParts):
    """``Q = sum_j first_j second_j``."""

    steps: Sequence[FactorWeight]

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.steps[0].shape

    def dense(self) -> Tensor:
        return product(*self.factors)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        firsts, seconds = zip(*(step.factors for step in self.steps), strict=True)
        return torch.cat(firsts, 1), torch.cat(seconds)

    @property
    def macs(self) -> int:
        return sum(step.macs for step in self.steps)

    @property
    def parts(self) -> Mapping[str, FactorWeight]:
        return {f"step{j}": step for j, step in enumerate(self.steps)}

    def with_parts(self, parts: Mapping[str, CompressedWeight]) -> Self:
        return replace(self, steps=cast(list[FactorWeight], list(parts.values())))

    def scaled_rows(self, gain: Tensor) -> Self:
        return type(self)([step.scaled_rows(gain) for step in self.steps])

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        return join_parts({name: step.to_trainable(weight) for name, step in self.parts.items()})

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self._trained_sum(tensors, relaxed=False)

    def unrounded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self._trained_sum(tensors, relaxed=True)

    def _trained_sum(self, tensors: Mapping[str, Tensor], *, relaxed: bool) -> Tensor:
        pairs = [step.trained_factors(select_part(tensors, name), relaxed=relaxed) for name, step in self.parts.items()]
        firsts, seconds = zip(*pairs, strict=True)
        return product(torch.cat(firsts, 1), torch.cat(seconds))


@COMPRESSIONS.register("svdlora")
class SvdLora(Truncation):
    """A sum of truncated SVDs, each of what the earlier ones leave: for rounded factors; with exact ones it is one SVD.

    Rank, energy and budget decide the total rank of all steps, as for a single SVD. It is shared evenly, and the first
    steps take the remainder. If the total rank is below ``steps``, there are only as many steps as ranks.
    """

    steps: int = Field(2, ge=1)
    """Products in the sum."""
    bits: Literal[32, 8, 1] = 32
    """Bits per value of a factor; later steps correct the rounding of the earlier ones."""

    def compress(self, weight: Tensor, stats: LayerStats | None) -> SumWeight:
        U, S, V = self.decompose(weight, stats)
        total = self.kept_rank(S, (weight.shape[0], weight.shape[1]))
        count, done, residual = min(self.steps, total), list[FactorWeight](), weight.double()
        for j in range(count):
            if done:
                residual = residual - done[-1].dense()
                U, S, V = self.decompose(residual, stats)
            r = total // count + (j < total % count)
            first, second = balanced(U[:, :r], S[:r], V[:r])
            done.append(FactorWeight.compressed(first, second, S[:0], METHODS_BY_BITS[self.bits], weight.dtype))
        return SumWeight(done)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> SumWeight:
        parts = [part for j in range(self.steps) if (part := select_part(tensors, f"step{j}"))]
        return SumWeight([FactorWeight.load(part, shape, METHODS_BY_BITS[self.bits]) for part in parts])
