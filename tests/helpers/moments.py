"""Layer statistics of made-up inputs, and the output error that they measure."""

import torch
from torch import Tensor

from pipeline.compress.contract import LayerStats


def random_stats(inner: int, seed: int = 0, dead: int = 0) -> LayerStats:
    """Second moments of correlated inputs of unequal size; the first ``dead`` of them are always zero."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inner, inner, dtype=torch.float64, generator=generator)
    x = torch.randn(8 * inner, inner, dtype=torch.float64, generator=generator) @ mixing + 0.5
    x = x * torch.linspace(0.1, 3, inner, dtype=torch.float64)
    x[:, :dead] = 0
    return LayerStats(x.T @ x / len(x))


def output_error(weight: Tensor, small: Tensor, moment: Tensor) -> Tensor:
    """``||(W - Q) C^(1/2)||^2`` of each row."""
    lost = (weight - small).double()
    return ((lost @ moment) * lost).sum(1)
