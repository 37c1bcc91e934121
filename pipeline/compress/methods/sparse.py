"""Block sparsity: 1 of 16 weights in tiles or runs, 1 of k x k, or N:M (Mishra et al., 2021, arXiv:2104.08378)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.nn import functional as F

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.packing import pack, unpack
from pipeline.compress.weight import MatrixWeight
from pipeline.config.registry import COMPRESSIONS


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``height x width`` weights, ``keep`` of which are kept; those at an edge have padding, never stored."""

    height: int
    width: int
    keep: int

    @classmethod
    def parse(cls, text: str) -> "Blocks":
        """Blocks from their name in a study file.

        >>> Blocks.parse("4x4")
        Blocks(height=4, width=4, keep=1)
        >>> Blocks.parse("2:4")
        Blocks(height=1, width=4, keep=2)
        """
        tile, pattern = re.fullmatch(r"(\d+)x(\d+)", text), re.fullmatch(r"(\d+):(\d+)", text)
        if tile:
            blocks = cls(int(tile[1]), int(tile[2]), 1)
        elif pattern:
            blocks = cls(1, int(pattern[2]), int(pattern[1]))
        else:
            raise ValueError("give a tile, as '4x4', '1x16' or '3x3', or N:M, as '2:4'")
        if not 1 <= blocks.keep < blocks.size <= 62 or math.comb(blocks.size, blocks.keep) > 2**16:
            raise ValueError(
                f"'{text}' is no possible block: a block has 2 to 62 weights, of which at least one is kept and one is "
                f"not, in at most 65,536 ways"
            )
        return blocks

    @property
    def size(self) -> int:
        return self.height * self.width

    @property
    def code_width(self) -> int:
        """Bits of the code that says which weights of a block are kept: ``ceil(log2 C(size, keep))``."""
        return (math.comb(self.size, self.keep) - 1).bit_length()

    def count(self, shape: tuple[int, int]) -> int:
        """How many blocks a weight of this shape has."""
        return -(-shape[0] // self.height) * -(-shape[1] // self.width)

    def divide(self, matrix: Tensor, fill: float) -> Tensor:
        """``[out, in] -> [blocks, size]``, padded with ``fill``; blocks are in row-major order."""
        rows, columns = -matrix.shape[0] % self.height, -matrix.shape[1] % self.width
        padded = F.pad(matrix, (0, columns, 0, rows), value=fill)
        tiles = padded.reshape(len(padded) // self.height, self.height, -1, self.width)
        return tiles.transpose(1, 2).reshape(-1, self.size)

    def assemble(self, blocks: Tensor, shape: tuple[int, int]) -> Tensor:
        """The inverse of ``divide``: ``[blocks, size] -> [out, in]``, without the padding."""
        down, across = -(-shape[0] // self.height), -(-shape[1] // self.width)
        tiles = blocks.reshape(down, across, self.height, self.width).transpose(1, 2)
        return tiles.reshape(down * self.height, across * self.width)[: shape[0], : shape[1]]

    def choices(self) -> Tensor:
        """Every way to keep ``keep`` of ``size`` weights, bool ``[C(size, keep), size]``; a block's code is a row."""
        kept = torch.tensor(list(combinations(range(self.size), self.keep)))
        chosen = torch.zeros(len(kept), self.size, dtype=torch.bool).scatter_(1, kept, value=True)
        return chosen[self.as_integers(chosen).argsort()]

    def as_integers(self, chosen: Tensor) -> Tensor:
        """The bits of ``chosen [..., size]`` read as binary numbers ``[...]``; ``choices`` is sorted by them."""
        integers = torch.zeros(chosen.shape[:-1], dtype=torch.int64)
        for i in range(self.size):  # one bit at a time, because all of them as integers take 64 times the memory
            integers += chosen[..., i].long() << i
        return integers


@dataclass(frozen=True)
class SparseWeight(MatrixWeight):
    """The kept values, zero elsewhere, and their positions ``kept``, bool ``[out, in]``."""

    kept: Tensor
    blocks: Blocks

    @property
    def macs(self) -> int:
        return int(self.kept.sum())

    def to_tensors(self) -> dict[str, Tensor]:
        if self.weight.is_meta:  # only the shape is known, which decides how many weights a block keeps
            count = self.blocks.divide(torch.ones(self.shape, dtype=torch.bool), 0).sum(1).clamp_max(self.blocks.keep)
            codes = pack(self.kept.new_empty(len(count)), self.blocks.code_width)
            return {"index": codes, "value": self.weight.new_empty(int(count.sum())).float()}
        chosen = self.blocks.divide(self.kept, 0)
        # A block at an edge may hold fewer than `keep` weights; its code then counts the first padding as kept.
        padding = ~self.blocks.divide(torch.ones_like(self.kept), 0)
        missing = self.blocks.keep - chosen.sum(1, keepdim=True)
        chosen = chosen | (padding & (padding.cumsum(1, dtype=torch.uint8) <= missing))
        codes = torch.searchsorted(self.blocks.as_integers(self.blocks.choices()), self.blocks.as_integers(chosen))
        return {"index": pack(codes, self.blocks.code_width), "value": self.weight[self.kept].float()}


def refit_kept(weight: Tensor, kept: Tensor, stats: LayerStats) -> Tensor:
    """The kept weights with the least squared error of the layer's outputs, ``[out, in]``.

    Per row with kept positions S: ``w_S = C_SS^-1 C_S: w``.
    """
    projected = stats.times_moment(weight.double())
    fitted = torch.zeros_like(weight)
    for row, mask in enumerate(kept):
        support = mask.nonzero().flatten()
        factor = torch.linalg.cholesky(stats.submoment(support))
        fitted[row, support] = torch.cholesky_solve(projected[row, support, None], factor)[:, 0].to(weight)
    return fitted


@COMPRESSIONS.register("sparse")
class Sparse(LayerCompression):
    """A few weights of each block, by default 1 of 16, in 4x4 tiles with a 4-bit index: for fewer operations."""

    block: Annotated[str, AfterValidator(lambda text: Blocks.parse(text) and text)] = "4x4"
    """A tile of which one weight is kept ("4x4", "1x16", "3x3"), or N of M along a row ("2:4")."""
    score: Literal["abs", "max", "activation"] = "abs"
    """What is kept: the largest ``|w|``, the largest signed ``w`` (as in the published code), or the largest
    ``|w_ij| sqrt(C_jj)``."""
    refit: bool = False
    """Fit the kept weights of each row to the layer's outputs by least squares."""

    @property
    def needs_statistics(self) -> bool:
        return self.refit or self.score == "activation"

    def compress(self, weight: Tensor, stats: LayerStats | None) -> SparseWeight:
        shape, blocks = (weight.shape[0], weight.shape[1]), Blocks.parse(self.block)
        scores = weight if self.score == "max" else weight.abs()
        if self.score == "activation" and stats is not None:
            scores = scores * stats.diagonal.sqrt()
        scores = blocks.divide(scores, -math.inf)
        best = scores.topk(blocks.keep, dim=1).indices
        kept = blocks.assemble(torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, value=True), shape)
        values = refit_kept(weight, kept, stats) if self.refit and stats is not None else weight.where(kept, 0)
        return SparseWeight(values, kept, blocks)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> SparseWeight:
        blocks = Blocks.parse(self.block)
        codes = unpack(tensors["index"], blocks.count(shape), blocks.code_width)
        kept = blocks.assemble(blocks.choices()[codes], shape)
        values = tensors["value"].new_zeros(shape).masked_scatter(kept, tensors["value"])
        return SparseWeight(values, kept, blocks)
