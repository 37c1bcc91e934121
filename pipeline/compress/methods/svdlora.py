"""A sum of low-rank products, each of what the earlier ones left, rounding included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from pipeline.compress.contract import LayerStats
from pipeline.compress.factor_weight import FactorWeight, PairOfMethods, compress_factors, load_factors, product
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.packing import part_of, side_by_side
from pipeline.compress.truncation import Truncation, balanced
from pipeline.compress.weight import BitCount, CompressedWeight
from pipeline.config.registry import COMPRESSIONS

FACTORS: dict[int, PairOfMethods] = {
    32: (NoCompression(), NoCompression()),
    8: (IntN(bits=8), IntN(bits=8)),
    1: (Int1(), Int1()),
}


@dataclass(frozen=True)
class SumWeight(CompressedWeight):
    """``Q = sum_j first_j second_j``."""

    steps: Sequence[FactorWeight]

    @property
    def shape(self) -> tuple[int, int]:
        return self.steps[0].shape

    def dense(self) -> Tensor:
        return product(*self.factors)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        firsts, seconds = zip(*(step.factors for step in self.steps), strict=True)
        return torch.cat(firsts, 1), torch.cat(seconds)

    @property
    def bits(self) -> BitCount:
        return sum((step.bits for step in self.steps), BitCount(payload=0))

    @property
    def macs(self) -> int:
        return sum(step.macs for step in self.steps)

    def to_tensors(self) -> dict[str, Tensor]:
        return side_by_side({f"step{j}": step.to_tensors() for j, step in enumerate(self.steps)})

    def scaled_rows(self, gain: Tensor) -> Self:
        return type(self)([step.scaled_rows(gain) for step in self.steps])


@COMPRESSIONS.register("svdlora")
class SvdLora(Truncation):
    """A sum of truncated SVDs, each of what the earlier ones leave; with exact factors it is one SVD.

    Rank, energy and budget say what all steps have together, as of one SVD; it is shared out evenly, the first
    steps taking what is over. A layer with fewer ranks than steps has as many steps as ranks.
    """

    steps: int = Field(2, ge=1)
    """Products that are summed."""
    bits: Literal[32, 8, 1] = 32
    """Of each number of a factor; later steps correct what rounding took from the earlier ones."""

    def compress(self, weight: Tensor, stats: LayerStats | None) -> SumWeight:
        U, S, V = self.decomposed(weight, stats)
        total = self.kept_rank(S, (weight.shape[0], weight.shape[1]))
        count, done, left = min(self.steps, total), list[FactorWeight](), weight.double()
        for j in range(count):
            if done:
                left = left - done[-1].dense()
                U, S, V = self.decomposed(left, stats)
            r = total // count + (j < total % count)
            first, second = balanced(U[:, :r], S[:r], V[:r])
            done.append(compress_factors(first, second, S[:0], FACTORS[self.bits], weight.dtype))
        return SumWeight(done)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> SumWeight:
        parts = [part for j in range(self.steps) if (part := part_of(tensors, f"step{j}"))]
        return SumWeight([load_factors(part, shape, FACTORS[self.bits]) for part in parts])
