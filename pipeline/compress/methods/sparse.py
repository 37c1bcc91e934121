"""A few weights of each block: 1-of-16 in tiles or runs, k x k tiles, N:M (Mishra et al., 2021, arXiv:2104.08378)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.nn import functional as F

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.packing import pack, packed_bits, unpack
from pipeline.compress.weight import BitCount, CompressedWeight
from pipeline.config.registry import COMPRESSIONS


@dataclass(frozen=True)
class Blocks:
    """How a ``[out, in]`` weight is cut: blocks of ``height x width``, ``keep`` weights kept in each.

    Blocks at an edge hold what is there: they are padded with places that are chosen last and never stored.
    """

    height: int
    width: int
    keep: int

    @classmethod
    def parse(cls, text: str) -> "Blocks":
        """``"4x4"``, ``"1x16"``, ``"3x3"``: one weight of each tile. ``"2:4"``: N of each run of M."""
        tile, pattern = re.fullmatch(r"(\d+)x(\d+)", text), re.fullmatch(r"(\d+):(\d+)", text)
        if tile:
            blocks = cls(int(tile[1]), int(tile[2]), 1)
        elif pattern:
            blocks = cls(1, int(pattern[2]), int(pattern[1]))
        else:
            raise ValueError("give a tile, as '4x4', '1x16' or '3x3', or N:M, as '2:4'")
        if not 1 <= blocks.keep < blocks.size <= 62 or math.comb(blocks.size, blocks.keep) > 2**16:
            raise ValueError("a block has 2 to 62 weights, keeps some and not all of them, in at most 65,536 ways")
        return blocks

    @property
    def size(self) -> int:
        return self.height * self.width

    @property
    def code_width(self) -> int:
        """Bits that say which weights of a block are kept: ``ceil(log2 C(size, keep))``."""
        return (math.comb(self.size, self.keep) - 1).bit_length()

    def cut(self, matrix: Tensor, fill: float) -> Tensor:
        """``[out, in] -> [blocks, size]``, row by row of blocks."""
        rows, columns = -matrix.shape[0] % self.height, -matrix.shape[1] % self.width
        padded = F.pad(matrix, (0, columns, 0, rows), value=fill)
        tiles = padded.reshape(len(padded) // self.height, self.height, -1, self.width)
        return tiles.transpose(1, 2).reshape(-1, self.size)

    def uncut(self, blocks: Tensor, shape: tuple[int, int]) -> Tensor:
        """The inverse of ``cut``."""
        down, across = -(-shape[0] // self.height), -(-shape[1] // self.width)
        tiles = blocks.reshape(down, across, self.height, self.width).transpose(1, 2)
        return tiles.reshape(down * self.height, across * self.width)[: shape[0], : shape[1]]

    def choices(self) -> Tensor:
        """Every way to keep ``keep`` of ``size`` places, bool ``[C(size, keep), size]``; a block's code is its row."""
        kept = torch.tensor(list(combinations(range(self.size), self.keep)))
        chosen = torch.zeros(len(kept), self.size, dtype=torch.bool).scatter_(1, kept, value=True)
        return chosen[self.key(chosen).argsort()]

    def key(self, chosen: Tensor) -> Tensor:
        """One number for each set of places, ``[..., size] -> [...]``; choices stand in its order."""
        return (chosen * 2 ** torch.arange(self.size)).sum(-1)


def kept_count(blocks: Blocks, shape: tuple[int, int]) -> int:
    """Weights that are kept: ``keep`` of each whole block, and of an edge block no more than it has."""
    present = blocks.cut(torch.ones(shape, dtype=torch.int32), 0).sum(1)
    return int(present.clamp_max(blocks.keep).sum())


@dataclass(frozen=True)
class SparseWeight(CompressedWeight):
    """Kept values and where they stand.

    Args:
        weight: ``[out, in]``, zero where nothing is kept.
        kept: ``[out, in]``, bool.
        blocks: How the weight was cut.
    """

    weight: Tensor
    kept: Tensor
    blocks: Blocks

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def dense(self) -> Tensor:
        return self.weight

    @property
    def bits(self) -> BitCount:
        count = -(-self.shape[0] // self.blocks.height) * -(-self.shape[1] // self.blocks.width)
        return BitCount(
            payload=32 * kept_count(self.blocks, self.shape), index=packed_bits(count, self.blocks.code_width)
        )

    @property
    def macs(self) -> int:
        return kept_count(self.blocks, self.shape)

    def to_tensors(self) -> dict[str, Tensor]:
        chosen = self.blocks.cut(self.kept, 0)
        # An edge block may keep fewer than `keep`: its free choices fall on the first places that are not there.
        absent = ~self.blocks.cut(torch.ones_like(self.kept), 0)
        missing = self.blocks.keep - chosen.sum(1, keepdim=True)
        chosen = chosen | (absent & (absent.cumsum(1) <= missing))
        codes = torch.searchsorted(self.blocks.key(self.blocks.choices()), self.blocks.key(chosen))
        return {"index": pack(codes, self.blocks.code_width), "value": self.weight[self.kept].float()}

    def scaled_rows(self, gain: Tensor) -> Self:
        return replace(self, weight=self.weight * gain.to(self.weight)[:, None])


def block_scores(weight: Tensor, score: str, stats: LayerStats | None) -> Tensor:
    """``|w|``, the signed ``w``, or ``|w_ij| sqrt(C_jj)``; ``[out, in]``."""
    if score == "max":
        return weight
    if score == "activation" and stats is not None:
        return weight.abs() * stats.second_moment.diagonal().sqrt()
    return weight.abs()


def refitted(weight: Tensor, kept: Tensor, stats: LayerStats) -> Tensor:
    """Kept weights with the least squared output error on their support S, row by row: ``w_S = C_SS^-1 C_S: w``."""
    moment = stats.damped()
    towards = weight.double() @ moment
    fitted = torch.zeros_like(weight)
    for row, mask in enumerate(kept):
        support = mask.nonzero().flatten()
        factor = torch.linalg.cholesky(moment[support[:, None], support])
        fitted[row, support] = torch.cholesky_solve(towards[row, support, None], factor)[:, 0].to(weight)
    return fitted


@COMPRESSIONS.register("sparse")
class Sparse(LayerCompression):
    """A few weights of each block: 1 of 16 by default, in 4x4 tiles, with a 4-bit index."""

    block: Annotated[str, AfterValidator(lambda text: Blocks.parse(text) and text)] = "4x4"
    """A tile of which one weight is kept ("4x4", "1x16", "3x3"), or N of M along a row ("2:4")."""
    score: Literal["abs", "max", "activation"] = "abs"
    """What is kept: largest ``|w|``, largest signed ``w`` (what the published code did), or ``|w_ij| sqrt(C_jj)``."""
    refit: bool = False
    """Fit the kept weights of each row to the layer's outputs by least squares."""

    @property
    def needs_statistics(self) -> bool:
        return self.refit or self.score == "activation"

    def compress(self, weight: Tensor, stats: LayerStats | None) -> SparseWeight:
        shape, blocks = (weight.shape[0], weight.shape[1]), Blocks.parse(self.block)
        scores = blocks.cut(block_scores(weight, self.score, stats), -math.inf)
        best = scores.topk(blocks.keep, dim=1).indices
        kept = blocks.uncut(torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, value=True), shape)
        values = refitted(weight, kept, stats) if self.refit and stats is not None else weight.where(kept, 0)
        return SparseWeight(values, kept, blocks)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> SparseWeight:
        blocks = Blocks.parse(self.block)
        count = -(-shape[0] // blocks.height) * -(-shape[1] // blocks.width)
        kept = blocks.uncut(blocks.choices()[unpack(tensors["index"], count, blocks.code_width)], shape)
        values = tensors["value"].new_zeros(shape).masked_scatter(kept, tensors["value"])
        return SparseWeight(values, kept, blocks)
