import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_starts import (
    COMPRESSED,
    EACH_SHAPE,
    LAYERS,
    generator,
    inputs_of,
    output_error,
    residual_of,
    start_of,
    sum_of,
    weight_of,
)
from torch import Tensor

from pipeline.adapt.inits.contract import AdaptedLayer, Init
from pipeline.adapt.inits.eva import Eva
from pipeline.adapt.inits.loftq import LoftQ
from pipeline.adapt.inits.qera import Qera
from pipeline.adapt.inits.qera_diag import QeraDiagonal
from pipeline.adapt.inits.residual_svd import ResidualSvd
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.grouped_weight import join_groups
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.no_compression import NoCompression


@pytest.mark.parametrize("scale", ["alpha/r", "alpha/sqrt(r)"])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 16.0, 48.0])
@EACH_SHAPE
def test_the_svd_start_is_the_nearest_of_its_rank_to_the_residual_at_any_alpha(shape, alpha, scale):
    weight = weight_of(shape)
    for rank in range(1, min(shape) + 1):
        residual, start = residual_of(weight), start_of(ResidualSvd(), weight, rank)
        added = sum_of(start, Lora(scale=scale), alpha)
        error = (residual - added).square().sum()
        tail = torch.linalg.svdvals(residual)[rank:].square().sum()
        assert torch.linalg.matrix_rank(added) <= rank
        torch.testing.assert_close(error, tail, rtol=1e-10, atol=1e-10)


def errors_by_rank(init: Init, weight: Tensor, stats: LayerStats, norm: Tensor, compression: LayerCompression) -> list:
    """``||(R - s B A) N||`` at every rank."""
    residual = residual_of(weight, compression)
    ranks = range(1, min(weight.shape) + 1)
    return [float(((residual - sum_of(start_of(init, weight, r, [stats], compression))) @ norm).norm()) for r in ranks]


@COMPRESSED
@pytest.mark.parametrize("init", [ResidualSvd(), QeraDiagonal(), Qera()], ids=lambda init: init.name)
@settings(max_examples=40)
@given(layer=LAYERS)
def test_more_rank_never_fits_worse_in_the_norm_of_its_init_and_full_rank_fits_exactly(init, compression, layer):
    out, inner, seed = layer
    weight, stats = weight_of((out, inner), seed), inputs_of(inner, seed)
    norms = {
        "svd": torch.eye(inner, dtype=torch.float64),
        "qera_diag": stats.damped().diagonal().sqrt().diag(),
        "qera": torch.linalg.cholesky(stats.damped()),
    }
    errors = errors_by_rank(init, weight, stats, norms[init.name], compression)
    size = float((residual_of(weight, compression) @ norms[init.name]).norm())
    assert all(more <= less + 1e-9 * size for less, more in zip([size, *errors], errors, strict=False))
    assert errors[-1] <= 1e-8 * size


@settings(max_examples=40)
@given(layer=LAYERS, rank=st.integers(1, 12))
def test_no_start_of_a_rank_leaves_smaller_errors_of_the_outputs_than_qera(layer, rank):
    out, inner, seed = layer
    weight, stats, rank = weight_of((out, inner), seed), inputs_of(inner, seed), min(rank, out, inner)
    residual = residual_of(weight)
    best, *others = (
        output_error(residual - sum_of(start_of(init, weight, rank, [stats])), stats)
        for init in (Qera(), QeraDiagonal(), ResidualSvd())
    )
    size = output_error(residual, stats)
    assert all(best <= error + 1e-9 * size for error in [*others, size])


@EACH_SHAPE
def test_qera_is_the_whitened_svd_of_the_residual_however_it_is_whitened(shape):
    weight, stats = weight_of(shape), inputs_of(shape[1])
    L = torch.linalg.cholesky(stats.damped())
    for rank in range(1, min(shape) + 1):
        U, S, Vh = torch.linalg.svd(residual_of(weight) @ L, full_matrices=False)
        nearest = torch.linalg.solve(L, (U[:, :rank] * S[:rank]) @ Vh[:rank], left=False)
        torch.testing.assert_close(sum_of(start_of(Qera(), weight, rank, [stats])), nearest, rtol=1e-6, atol=1e-8)


@EACH_SHAPE
def test_qera_is_the_svd_where_all_inputs_are_alike_and_the_diagonal_form_where_none_are_correlated(shape):
    weight = weight_of(shape)
    alike = LayerStats(torch.eye(shape[1], dtype=torch.float64))
    apart = LayerStats(torch.logspace(-2, 2, shape[1], dtype=torch.float64).diag())
    for rank in range(1, min(shape) + 1):
        svd = sum_of(start_of(ResidualSvd(), weight, rank))
        for init in (Qera(), QeraDiagonal()):
            torch.testing.assert_close(sum_of(start_of(init, weight, rank, [alike])), svd, rtol=1e-9, atol=1e-9)
        exact, diagonal = (sum_of(start_of(init, weight, rank, [apart])) for init in (Qera(), QeraDiagonal()))
        torch.testing.assert_close(exact, diagonal, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("init", [Qera(), QeraDiagonal(), Eva()], ids=lambda init: init.name)
def test_groups_share_a_and_are_taken_as_one_set_of_inputs(init):
    weight = weight_of((6, 8))
    one, other = inputs_of(8, 1), inputs_of(8, 20)
    mean = LayerStats((one.second_moment + other.second_moment) / 2)
    both, same = (start_of(init, weight, 3, stats) for stats in ([one, other], [one, one]))
    torch.testing.assert_close(both.A, start_of(init, weight, 3, [mean]).A)
    torch.testing.assert_close(same.A, start_of(init, weight, 3, [one]).A)
    assert not torch.allclose(both.A, same.A)


def test_qera_of_groups_with_like_inputs_is_exact():
    weight, stats = weight_of((6, 8)), inputs_of(8)
    small = join_groups([Int1(scale="tensor").compress(part, None) for part in weight.chunk(2)])
    start = Qera().start(AdaptedLayer(weight, small, NoCompression().compress, [stats, stats]), 3, generator())
    difference = weight - small.dense() - start.B @ start.A
    errors = [output_error(part, stats) for part in difference.chunk(2)]
    tail = torch.linalg.svdvals(stats.times_root(weight - small.dense()))[3:].square().sum()
    assert sum(errors) == pytest.approx(float(tail), rel=1e-8)


NESTED = [ResidualSvd(), QeraDiagonal(), Qera(), Eva()]


@pytest.mark.parametrize("init", NESTED, ids=lambda init: init.name)
@EACH_SHAPE
def test_every_rank_of_a_nested_start_is_a_prefix_of_the_highest(init, shape):
    weight, stats = weight_of(shape), [inputs_of(shape[1])]
    highest = start_of(init, weight, min(shape), stats)
    assert init.nested
    for rank in range(1, min(shape) + 1):
        own = start_of(init, weight, rank, stats)
        assert torch.equal(highest.prefix(rank).A, own.A)
        assert torch.equal(highest.prefix(rank).B, own.B)
        assert highest.prefix(rank).residual == own.residual


@pytest.mark.parametrize("init", [ResidualSvd(), QeraDiagonal(), Qera(), LoftQ()], ids=lambda init: init.name)
def test_a_weight_that_lost_nothing_starts_at_zero_and_can_still_learn_from_every_input_it_looks_at(init):
    weight = weight_of((4, 6)).float()
    weight[:, 0] = 0
    start = start_of(init, weight, 2, [inputs_of(6)], NoCompression())
    assert start.A.dtype == torch.float32
    assert not sum_of(start).any()
    assert not start.B.any()
    assert bool((start.A[:, 1:].abs() > 1e-6).all())
    if not init.needs_statistics:
        torch.testing.assert_close(start.A @ start.A.T, torch.eye(2))


@pytest.mark.parametrize("init", [QeraDiagonal(), Qera(), Eva()], ids=lambda init: init.name)
def test_inputs_that_are_always_zero_are_handled(init):
    weight, moment = weight_of((5, 6)), inputs_of(6).second_moment
    moment[:2] = moment[:, :2] = 0
    for dead in (moment, torch.zeros_like(moment)):
        start = start_of(init, weight, 3, [LayerStats(dead)])
        assert start.A.isfinite().all()
        assert start.B.isfinite().all()


def test_eva_looks_at_the_directions_in_which_the_inputs_vary_most():
    x = torch.randn(300, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    start = start_of(Eva(), weight_of((5, 6)), 3, [LayerStats(x.T @ x / len(x))])
    V = torch.linalg.svd(x, full_matrices=False).Vh[:3]
    torch.testing.assert_close(start.A.T @ start.A, V.T @ V, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((start.A * V).sum(1).abs(), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert not start.B.any()
    assert not start.residual
