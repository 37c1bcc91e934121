from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_starts import COMPRESSED, EACH_SHAPE, LAYERS, inputs_of, start_of, sum_of, weight_of
from torch import Tensor

from pipeline.adapt.inits.contract import Start
from pipeline.adapt.inits.loftq import LoftQ
from pipeline.adapt.inits.olora import Olora
from pipeline.adapt.inits.pissa import Pissa
from pipeline.adapt.inits.residual_svd import ResidualSvd
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.methods.sparse import Sparse


def lost(start: Start, weight: Tensor) -> float:
    return float((weight - start.base.dense() - sum_of(start)).norm())


@COMPRESSED
@EACH_SHAPE
def test_loftq_of_one_round_is_the_svd_start_on_the_same_base(compression, shape):
    weight = weight_of(shape)
    one, svd = (start_of(init, weight, min(2, *shape), (), compression) for init in (LoftQ(rounds=1), ResidualSvd()))
    assert torch.equal(one.A, svd.A)
    assert torch.equal(one.B, svd.B)
    assert one.residual
    assert torch.equal(one.base.dense(), compression.compress(weight, None).dense())


@pytest.mark.parametrize("compression", [Int1(), Sparse(block="1:4"), Int1(metric="activation")], ids=str)
@settings(max_examples=40)
@given(layer=LAYERS, rank=st.integers(1, 12))
def test_more_rounds_of_loftq_never_lose_more_not_even_where_a_method_takes_what_is_not_nearest(
    compression, layer, rank
):
    out, inner, seed = layer
    weight, stats, rank = weight_of((out, inner), seed), [inputs_of(inner, seed)], min(rank, out, inner)
    losses = [lost(start_of(LoftQ(rounds=T), weight, rank, stats, compression), weight) for T in (1, 2, 5)]
    assert all(more <= less + 1e-9 for less, more in pairwise(losses))


def test_rounds_of_loftq_do_come_nearer_and_the_base_is_that_of_the_last_product():
    weight = weight_of((16, 24))
    one, five = (start_of(LoftQ(rounds=rounds), weight, 4) for rounds in (1, 5))
    assert lost(five, weight) < 0.97 * lost(one, weight)
    assert not torch.equal(five.base.dense(), one.base.dense())
    torch.testing.assert_close(
        sum_of(five), sum_of(start_of(ResidualSvd(), weight - five.base.dense(), 4, (), Zeros())), rtol=1e-9, atol=1e-9
    )


class Zeros(NoCompression):
    """All of the weight is lost."""

    def compress(self, weight, stats):
        return super().compress(torch.zeros_like(weight), stats)


@pytest.mark.parametrize("init", [Pissa(), Olora()], ids=lambda init: init.name)
@pytest.mark.parametrize("alpha", [0.5, 16.0])
@EACH_SHAPE
def test_what_is_trained_and_what_is_left_of_it_are_the_weight_where_nothing_is_compressed(init, alpha, shape):
    weight = weight_of(shape)
    for rank in range(1, min(shape) + 1):
        start = start_of(init, weight, rank, (), NoCompression())
        torch.testing.assert_close(start.base.dense() + sum_of(start, alpha=alpha), weight, rtol=1e-10, atol=1e-10)
        squeezed = start_of(init, weight, rank)
        assert torch.equal(squeezed.base.dense(), Int1().compress(start.base.dense(), None).dense())


@EACH_SHAPE
def test_pissa_trains_the_largest_directions_with_equal_shares_on_both_sides(shape):
    weight = weight_of(shape)
    for rank in range(1, min(shape) + 1):
        start = start_of(Pissa(), weight, rank)
        S = torch.linalg.svdvals(weight)
        torch.testing.assert_close(torch.linalg.svdvals(sum_of(start))[:rank], S[:rank])
        torch.testing.assert_close(start.A @ start.A.T, S[:rank].diag())
        torch.testing.assert_close(start.B.T @ start.B, S[:rank].diag())
        torch.testing.assert_close((weight - sum_of(start)).norm(), S[rank:].norm(), rtol=1e-9, atol=1e-9)


@EACH_SHAPE
def test_olora_trains_orthonormal_directions_of_the_outputs_that_span_the_weights_first_columns(shape):
    weight = weight_of(shape)
    for rank in range(1, min(shape) + 1):
        start = start_of(Olora(), weight, rank)
        torch.testing.assert_close(start.B.T @ start.B, torch.eye(rank, dtype=torch.float64))
        torch.testing.assert_close((start.B @ start.A)[:, :rank], weight[:, :rank])
        assert not start.A[:, :rank].tril(-1).any()
