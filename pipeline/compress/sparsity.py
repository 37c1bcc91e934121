"""Which weights a sparse matrix keeps, and how their positions are packed: blocks, or any share of all weights."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, autograd
from torch.nn import functional as F

from pipeline.compress.packing import Packing, pack, unpack

BELOW, DROPPED = 0.999, 0.5
"""Shares of the least kept magnitude at which latents begin at most: of weights that are not kept, and of those whose
magnitude would have been among the largest."""


class Pattern(ABC):
    """How many weights are kept of which, whatever their values."""

    @abstractmethod
    def kept(self, scores: Tensor) -> Tensor:
        """The positions of the largest ``scores [out, in]``, bool ``[out, in]``; it works under ``torch.vmap``."""

    @abstractmethod
    def positions(self, scores: Tensor) -> Tensor:
        """Flat positions ``[K]`` of the largest ``scores [out, in]``, int64; it works under ``torch.vmap``."""

    @abstractmethod
    def count(self, shape: tuple[int, int]) -> int:
        """How many weights are kept in a matrix of this shape."""

    @abstractmethod
    def to_tensors(self, kept: Tensor) -> dict[str, Tensor]:
        """The packed positions ``kept``, bool ``[out, in]``; the last word of each name is ``index``."""

    @abstractmethod
    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """The inverse of ``to_tensors``; a ``ValueError`` if the tensors hold another number of positions."""

    @abstractmethod
    def packings(self, shape: tuple[int, int]) -> dict[str, Packing]:
        """How positions in a matrix of this shape are packed; see ``CompressedWeight.packings``."""

    @property
    def codable(self) -> "Pattern":
        """The pattern that packs positions as entropy coding shrinks them most."""
        return self

    def of(self, tensors: Mapping[str, Tensor]) -> "Pattern":
        """This pattern or its ``codable`` one, by which of the two packed ``tensors``."""
        return self


@dataclass(frozen=True)
class Blocks(Pattern):
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

    def kept(self, scores: Tensor) -> Tensor:
        """The largest of each block, bool ``[out, in]``."""
        best = self.positions(scores)
        return at_positions(torch.ones_like(best, dtype=torch.bool), best, scores)

    def positions(self, scores: Tensor) -> Tensor:
        blocks = self.divide(scores, -math.inf)
        # max takes a fifth of the time of topk
        best = blocks.max(1, keepdim=True).indices if self.keep == 1 else blocks.topk(self.keep, dim=1).indices
        (out, inner), block = scores.shape, torch.arange(len(blocks), device=scores.device)[:, None]
        across = -(-inner // self.width)
        row = block // across * self.height + best // self.width
        found = (row * inner + block % across * self.width + best % self.width).flatten()
        if out % self.height == 0 and inner % self.width == 0:
            return found
        filled = self._filled(torch.ones(scores.shape, dtype=torch.bool))[:, None]
        real = (torch.arange(self.keep) < filled).flatten().nonzero().flatten()  # padding is chosen last
        return found.index_select(0, real.to(scores.device))

    def count(self, shape: tuple[int, int]) -> int:
        return int(self._filled(torch.ones(shape, dtype=torch.bool)).sum())

    def _filled(self, matrix: Tensor) -> Tensor:
        """How many weights each block of ``matrix`` keeps, ``[blocks]``: fewer at an edge that does not fill one."""
        return self.divide(torch.ones_like(matrix, dtype=torch.bool), 0).sum(1).clamp_max(self.keep)

    def to_tensors(self, kept: Tensor) -> dict[str, Tensor]:
        if kept.is_meta:  # only the shape is known
            return {"index": pack(self._filled(kept), self.code_width)}
        chosen = self.divide(kept, 0)
        # A block at an edge may hold fewer than `keep` weights; its code then counts the first padding as kept.
        padding = ~self.divide(torch.ones_like(kept), 0)
        missing = self.keep - chosen.sum(1, keepdim=True)
        chosen = chosen | (padding & (padding.cumsum(1, dtype=torch.uint8) <= missing))
        codes = torch.searchsorted(as_integers(choices(self)), as_integers(chosen))
        return {"index": pack(codes, self.code_width)}

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
        blocks = -(-shape[0] // self.height) * -(-shape[1] // self.width)
        return self.assemble(choices(self)[unpack(tensors["index"], blocks, self.code_width)], shape)

    def packings(self, shape: tuple[int, int]) -> dict[str, Packing]:
        return {"index": Packing(self.code_width, -(-shape[1] // self.width))}

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


@cache
def choices(blocks: Blocks) -> Tensor:
    """Every way to keep ``keep`` of ``size`` weights, bool ``[C(size, keep), size]``; a block's code is a row.

    A layer of many groups asks for it once for each.
    """
    kept = torch.tensor(list(combinations(range(blocks.size), blocks.keep)))
    chosen = torch.zeros(len(kept), blocks.size, dtype=torch.bool).scatter_(1, kept, value=True)
    return chosen[as_integers(chosen).argsort()]


def as_integers(chosen: Tensor) -> Tensor:
    """The bits of ``chosen [..., size]`` read as binary numbers ``[...]``; ``choices`` is sorted by them."""
    integers = torch.zeros(chosen.shape[:-1], dtype=torch.int64)
    for i in range(chosen.shape[-1]):  # one bit at a time, because all of them as integers take 64 times the memory
        integers += chosen[..., i].long() << i
    return integers


@dataclass(frozen=True)
class Share(Pattern):
    """A share of all weights of a layer, wherever they stand; at least one is kept.

    Their positions are stored as a mask of one bit a weight, or sorted, in the code of Elias and Fano (Elias, 1974):
    the lowest ``l`` bits of each, and for each in turn a 1 after as many 0s as its higher bits are above those of the
    one before. Both sizes follow from the number of weights ``n`` and of kept ones ``K`` alone: ``n`` bits, or
    ``K (l + 1) + (n - 1) / 2^l``, about 0.31 bits a weight where one of 20 is kept.
    """

    keep: float
    smallest: bool = True  # whether the smaller of both is stored; otherwise the mask

    def kept(self, scores: Tensor) -> Tensor:
        best = self.positions(scores)
        return at_positions(torch.ones_like(best, dtype=torch.bool), best, scores)

    def positions(self, scores: Tensor) -> Tensor:
        found: Tensor = _Largest.apply(scores.flatten(), self._count(scores.numel()))
        return found

    def count(self, shape: tuple[int, int]) -> int:
        return self._count(shape[0] * shape[1])

    def _count(self, weights: int) -> int:
        return max(1, round(self.keep * weights))

    def low_bits(self, weights: int) -> int | None:
        """``l`` of the smallest code of the positions; ``None`` if the mask is stored."""

        def size(low: int) -> int:
            return -(-kept * low // 8) - (-(kept + ((weights - 1) >> low)) // 8)

        kept = self._count(weights)
        best = min(range(32), key=size)
        return best if self.smallest and size(best) < -(-weights // 8) else None

    def packings(self, shape: tuple[int, int]) -> dict[str, Packing]:
        return {"mask_index": Packing(1, shape[1])}

    @property
    def codable(self) -> "Share":
        return replace(self, smallest=False)

    def of(self, tensors: Mapping[str, Tensor]) -> "Share":
        return self.codable if "mask_index" in tensors else self

    def to_tensors(self, kept: Tensor) -> dict[str, Tensor]:
        low = self.low_bits(kept.numel())
        if low is None:
            return {"mask_index": pack(kept, 1)}
        count = self._count(kept.numel())
        flat = kept.flatten()  # on torch's device meta only the shape is known
        positions = flat.new_empty(count, dtype=torch.int64) if flat.is_meta else flat.nonzero().flatten()
        high = kept.new_zeros(count + ((kept.numel() - 1) >> low))
        places = (positions >> low) + torch.arange(count, device=kept.device)
        high = high.scatter(0, places, torch.ones_like(places, dtype=torch.bool))
        return {"low_index": pack(positions & ((1 << low) - 1), low), "high_index": pack(high, 1)}

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
        weights = shape[0] * shape[1]
        count, low = self._count(weights), self.low_bits(weights)
        if low is None:
            kept = unpack(tensors["mask_index"], weights, 1, torch.bool)
        else:
            places = unpack(tensors["high_index"], count + ((weights - 1) >> low), 1, torch.bool).nonzero().flatten()
            highs = (places - torch.arange(len(places))) << low
            kept = torch.zeros(weights, dtype=torch.bool)
            kept[highs | unpack(tensors["low_index"], len(places), low)] = True
        if int(kept.sum()) != count:
            raise ValueError(f"the packed positions are {int(kept.sum())}, and {count} of {weights} weights are kept")
        return kept.view(shape)


class _Largest(autograd.Function):
    """Positions ``[..., count]`` of the largest ``scores [..., n]``, ascending; on a CPU by numpy.

    To find 8 % of 200,000 takes it 0.8 ms there, and ``topk`` 2.8 ms (one core). Values at ascending positions are read
    and written in two thirds of the time.
    """

    @staticmethod
    def forward(scores: Tensor, count: int) -> Tensor:
        if scores.device.type != "cpu" or scores.dtype == torch.bfloat16:  # which numpy has not
            return scores.topk(count, sorted=False).indices.sort().values
        return torch.from_numpy(np.sort(np.argpartition(scores.numpy(), -count)[..., -count:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], scores: Tensor, count: int) -> tuple[Tensor, int]:
        return _Largest.apply(scores.movedim(in_dims[0], 0), count), 0


def at_positions(values: Tensor, positions: Tensor, like: Tensor) -> Tensor:
    """A matrix of the shape of ``like [out, in]`` with ``values [K]`` at flat ``positions [K]`` and zero elsewhere."""
    # torch 2.6 can batch this, and not scatter_add_; any function that is not in place copies the whole matrix.
    return values.new_zeros(like.numel()).index_add_(0, positions, values).view(like.shape)


def latent_of(weight: Tensor, kept: Tensor, largest: Tensor) -> Tensor:
    """A latent ``[out, in]`` whose largest magnitudes are those that are ``kept``: others are moved below them.

    Args:
        weight: ``[out, in]``.
        kept: bool ``[out, in]``.
        largest: bool ``[out, in]``; the weights that would be kept for their magnitudes.
    """
    least = weight.abs().where(kept, torch.inf).amin()
    below = torch.where(largest, DROPPED, BELOW) * least.where(least.isfinite(), 0)
    return weight.where(kept, torch.minimum(torch.maximum(weight, -below), below))
