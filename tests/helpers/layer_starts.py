"""Starts of single layers, for the tests of the inits."""

import functools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.adapt.contract import Draw
from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel, LayerCompression, LayerStats
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.sparse import Sparse

SHAPES = [(9, 14), (14, 9), (1, 6), (20, 1)]
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES)
COMPRESSED = pytest.mark.parametrize("compression", [Int1(), Int1(scale="none"), Sparse(block="1:4")], ids=str)

LAYERS = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
"""Shape and seed of a layer."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight_of(shape: tuple[int, int], seed: int = 7) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def inputs_of(inner: int, seed: int = 3) -> LayerStats:
    """Inputs of very unlike sizes, each correlated with others."""
    mix = torch.randn(inner, inner, dtype=torch.float64, generator=generator(seed))
    x = torch.randn(200, inner, dtype=torch.float64, generator=generator(seed + 1)) @ mix
    x = x * torch.logspace(-1, 1, inner, dtype=torch.float64)
    return LayerStats(x.T @ x / len(x))


def start_of(
    init: Init,
    weight: Tensor,
    rank: int,
    stats: Sequence[LayerStats] = (),
    compression: LayerCompression | None = None,
    seed: int = 0,
) -> Start:
    compression = compression or Int1()
    statistics = stats[0] if compression.needs_statistics else None
    compress = functools.partial(compression.compress, stats=statistics)
    return init.start(AdaptedLayer(weight, compress(weight), compress, stats), rank, generator(seed))


def residual_of(weight: Tensor, compression: LayerCompression | None = None) -> Tensor:
    return weight - (compression or Int1()).compress(weight, None).dense()


def sum_of(start: Start, adapter: Lora | None = None, alpha: float = 8.0) -> Tensor:
    """``s B A`` of a lane that begins at ``start``."""
    adapter, model = adapter or Lora(), nn.ModuleDict({"fc": nn.Identity()})
    begun = adapter.begin(CompressedModel(model, {}, model), {"fc": start}, Draw(alpha))
    return adapter.s(alpha, len(start.A)) * begun["fc.lora_B"] @ begun["fc.lora_A"]


def output_error(difference: Tensor, stats: LayerStats) -> float:
    """``E ||M x||^2 = tr(M C M^T)``, damped."""
    return float((difference @ stats.damped() * difference).sum())
