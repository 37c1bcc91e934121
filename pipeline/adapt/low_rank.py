"""The products of low-rank layers, many lanes and ranks in one pass, in the layouts in which thin matrices are quick.

Legend: ``T`` lanes in all, ``n`` rows of each (images, or their tokens). Lanes of one rank ``r`` form a stack with ``A
[t, r, in]``, ``B [t, out, r]`` and the scale ``s [t, 1, 1]``; stacks follow each other in ``x`` and ``y``.

With ``r`` far below ``n``, ``in`` and ``out``, a product whose long side is contiguous takes a quarter of the time of
its transpose: with 8 lanes, n = 256 and r = 8 on one core, ``h^T dy`` takes 138 us and ``dy^T h`` 620, ``B^T dy^T`` 140
and ``dy B`` 595. What autograd would multiply by itself are the slow forms, and it would add the gradients of the two
paths in a pass of its own; hence functions with their own backward. ``B A`` is never built.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, autograd, baddbmm

Factors = tuple[Tensor, Tensor, Tensor]
"""``A``, ``B`` and ``s`` of one stack."""


def on_own(x: Tensor, weight: Tensor, bias: Tensor | None, stacks: Sequence[Factors]) -> Tensor:
    """``x W^T + b + s (x A^T) B^T``, where every lane has its own ``x``: ``[T * n, in] -> [T * n, out]``."""
    y: Tensor = _OnOwn.apply(x, weight, bias, *(tensor for stack in stacks for tensor in stack))
    return y


def on_shared(x: Tensor, y: Tensor, stacks: Sequence[Factors]) -> Tensor:
    """``y + s (x A^T) B^T``, where all lanes have one ``x [n, in]`` and ``y [n, out]``: ``-> [T * n, out]``."""
    out: Tensor = _OnShared.apply(x, y, *(tensor for stack in stacks for tensor in stack))
    return out


def _in_stacks(factors: Sequence[Tensor], *tensors: Tensor) -> Iterator[tuple[Factors, list[Tensor]]]:
    """The factors of each stack, with its lanes' pieces of some tensors ``[T * n, ...] -> [t, n, ...]``."""
    stacks = list(zip(factors[::3], factors[1::3], factors[2::3], strict=True))
    n, start = len(tensors[0]) // sum(len(A) for A, _, _ in stacks), 0
    for A, B, s in stacks:
        stop = start + len(A) * n
        yield (A, B, s), [tensor[start:stop].view(len(A), n, -1) for tensor in tensors]
        start = stop


def _d_low(B: Tensor, d: Tensor) -> Tensor:
    """``B^T d^T``; of a ``B`` that lies transposed, two columns take 490 us where they take 183 so."""
    return B.mT.contiguous() @ d.mT


class _OnOwn(autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *factors: Tensor) -> Tensor:
        out = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
        lows = []
        for (A, B, s), (own, y) in _in_stacks(factors, x, out):
            lows.append((A @ own.mT).mul_(s))
            y.baddbmm_(lows[-1].mT, B.mT)
        ctx.save_for_backward(x, weight, *factors, *lows)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, *rest = ctx.saved_tensors
        factors, lows = rest[: len(rest) // 4 * 3], rest[len(rest) // 4 * 3 :]
        d_out = gradients[0].contiguous()
        dx, gone = d_out @ weight, []
        for ((A, B, s), (own, d, d_own)), low in zip(_in_stacks(factors, x, d_out, dx), lows, strict=True):
            d_low = _d_low(B, d).mul_(s)
            d_own.baddbmm_(d_low.mT, A)
            gone += [d_low @ own, (low @ d).mT, None]
        return dx, None, None, *gone


class _OnShared(autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, *factors: Tensor) -> Tensor:
        # All lanes' A in one product, whatever their ranks: x is read once, and no rank is padded to another.
        side_by_side = torch.cat([A.flatten(0, 1) for A in factors[::3]]) @ x.T
        out = y.new_empty(sum(map(len, factors[::3])) * len(y), y.shape[1])
        lows, start = [], 0
        for (A, B, s), (own,) in _in_stacks(factors, out):
            stop = start + len(A) * A.shape[1]
            lows.append(side_by_side[start:stop].view(len(A), A.shape[1], -1).mul_(s))
            baddbmm(y.expand(len(A), -1, -1), lows[-1].mT, B.mT, out=own)
            start = stop
        ctx.save_for_backward(x, *factors, *lows)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, *rest = ctx.saved_tensors
        factors, lows = rest[: len(rest) // 4 * 3], rest[len(rest) // 4 * 3 :]
        d_lows, d_Bs = [], []
        for ((_, B, s), (d,)), low in zip(_in_stacks(factors, gradients[0].contiguous()), lows, strict=True):
            d_lows.append(_d_low(B, d).mul_(s))
            d_Bs.append((low @ d).mT)
        d_As = torch.split(
            torch.cat([low.flatten(0, 1) for low in d_lows]) @ x, [len(low) * low.shape[1] for low in d_lows]
        )
        shaped = [d_A.view(*low.shape[:2], -1) for d_A, low in zip(d_As, d_lows, strict=True)]
        return None, None, *(each for d_A, d_B in zip(shaped, d_Bs, strict=True) for each in (d_A, d_B, None))
