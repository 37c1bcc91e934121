"""The largest of many numbers, as a mask, quickly enough for every step of training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, autograd


def mask_of_largest(scores: Tensor, count: int) -> Tensor:
    """1 at the ``count`` largest of ``scores [n]`` and 0 elsewhere, without gradients, also under ``torch.vmap``."""
    chosen: Tensor = _Largest.apply(scores, count)
    return chosen


class _Largest(autograd.Function):
    """1 at the ``count`` largest of the last axis and 0 elsewhere, without gradients, also under ``torch.vmap``.

    On a CPU numpy divides 200,000 numbers at a threshold in 0.7 ms, where ``topk`` takes 2.0 ms.
    """

    @staticmethod
    def forward(scores: Tensor, count: int) -> Tensor:
        rows = scores.flatten(0, -2) if scores.ndim > 1 else scores[None]
        return torch.stack([_largest(row, count) for row in rows]).view(scores.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], scores: Tensor, count: int) -> tuple[Tensor, int]:
        chosen: Tensor = _Largest.apply(scores.movedim(in_dims[0], 0), count)
        return chosen, 0


def _largest(scores: Tensor, count: int) -> Tensor:
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        values = scores.numpy()
        least = np.partition(values, len(values) - count)[len(values) - count]
        chosen = values >= least
        if chosen.sum() > count:
            chosen[np.flatnonzero(values == least)[: int(chosen.sum()) - count]] = False
        if chosen.sum() == count:  # otherwise the scores of a diverged lane are NaN
            return torch.from_numpy(chosen).to(scores)
    best = scores.topk(count, sorted=False).indices
    return torch.zeros_like(scores).scatter(0, best, torch.ones_like(best, dtype=scores.dtype))
