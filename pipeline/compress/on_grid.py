"""Latent weights on an even grid: rounding in the forward pass, gradients of latents, scales and zero points."""

from typing import Any

import torch
from torch import Tensor

from pipeline.compress.latents import LatentFunction, from_runs, in_runs, in_vmap

HALF = 0.5001
"""Scales by which a latent weight may lie beyond the last grid point and still be rounded to it, not clipped."""
TINY = 1e-30
"""Takes the place of a scale of 0."""


def by_group(latent: Tensor, scale: Tensor, zero: Tensor | None, group: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Latents ``[out, in]`` as ``[out * groups, group]``, padded with zeros; scales and zeros as ``[.., 1]``."""
    runs = in_runs(latent, min(group, latent.shape[1]))
    return runs, scale.reshape(-1, 1), None if zero is None else zero.reshape(-1, 1)


def _position(latent: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Latents from the zero points, in scales; those of constant rows, whose scale is 0, are beyond any grid."""
    divisor = torch.where(scale == 0, TINY, scale)
    return latent / divisor if zero is None else (latent - zero).div_(divisor)


def _nearest(position: Tensor, limits: tuple[int, int]) -> Tensor:
    """The nearest whole numbers within ``limits``."""
    return position.round().clamp(*limits)


def whole_codes(latent: Tensor, scale: Tensor, zero: Tensor | None, limits: tuple[int, int]) -> Tensor:
    """The multiples of the scale that ``on_grid`` rounds to, in the type of ``latent [n, columns]``.

    Any code stands for the value of a constant row; they are all 0 there, which packs best.
    """
    return _nearest(_position(latent, scale, zero), limits) * (scale != 0)


def grid_points(code: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """The grid points of ``whole_codes``, differentiable in scales and zero points."""
    return scale * code if zero is None else scale * code + zero


def on_grid(
    latent: Tensor, scale: Tensor, zero: Tensor | None, group: int, limits: tuple[int, int], share: float
) -> Tensor:
    """The grid point nearest to each latent weight, ``zero + scale code``.

    Inside the grid ``dq/dw = 1`` and ``dq/dscale = (q - w) / scale``; beyond it ``dq/dw = 0``, ``dq/dzero = 1`` and
    ``dq/dscale = (q - zero) / scale``, as in LSQ (Esser et al., 2020, arXiv:1902.08153).

    Args:
        latent: ``[out, in]``.
        scale: ``[out, groups]``; 0 where all weights of a group are equal, and all codes stand for ``zero``.
        zero: ``[out, groups]``, or ``None`` for zeros.
        group: Columns that share a scale; the last group may have fewer.
        limits: The least and the largest code.
        share: What the gradients of scales and zero points are multiplied by.
    """
    points: Tensor = _OnGrid.apply(latent, scale, zero, group, limits, share)[0]
    return points


class _OnGrid(LatentFunction):
    """A single node of the graph, which passes over the weights as few times as it can.

    A pass that writes a new tensor takes two to three times as long as one in place, hence those over ``position``.
    Torch therefore refuses to go back through the graph a second time.
    """

    @staticmethod
    def forward(
        latent: Tensor, scale: Tensor, zero: Tensor | None, group: int, limits: tuple[int, int], share: float
    ) -> tuple[Tensor, Tensor]:
        runs, scales, zeros = by_group(latent, scale, zero, group)
        position = _position(runs, scales, zeros)
        points = _nearest(position, limits).mul_(scales)
        return from_runs(points if zeros is None else points.add_(zeros), latent.shape), position

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, scale, zero, ctx.group, ctx.limits, ctx.share = inputs
        ctx.save_for_backward(scale, *output, *([] if zero is None else [zero]))
        ctx.mark_non_differentiable(output[1])
        if not in_vmap():  # where torch 2.6 needs all gradients
            ctx.set_materialize_grads(False)  # zeros for the positions, which nothing uses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        scale, points, position, *zero = ctx.saved_tensors
        (least, most), of_zero = ctx.limits, None
        g, scales, _ = by_group(gradients[0], scale, None, ctx.group)
        passed = torch.ops.aten.hardtanh_backward(g, position, least - HALF, most + HALF)  # in one pass
        of_positions = position.mul_(passed).sum(1, keepdim=True)
        of_points = position.copy_(g).mul_(in_runs(points, g.shape[1])).sum(1, keepdim=True)
        for offset in zero:
            total = g.sum(1, keepdim=True)
            of_points = of_points - offset.reshape(-1, 1) * total
            of_zero = (ctx.share * (total - passed.sum(1, keepdim=True))).view_as(offset)
        of_codes = of_points / torch.where(scales == 0, torch.inf, scales)
        of_scale = (ctx.share * (of_codes - of_positions)).view_as(scale)
        return from_runs(passed, points.shape), of_scale, of_zero, None, None, None
