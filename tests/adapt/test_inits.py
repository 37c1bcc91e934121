import functools
import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.adapt.contract import AdaptedLayer, Draw, Init, Start
from pipeline.adapt.inits.eva import Eva
from pipeline.adapt.inits.loftq import LoftQ
from pipeline.adapt.inits.olora import Olora
from pipeline.adapt.inits.paper import Paper
from pipeline.adapt.inits.pissa import Pissa
from pipeline.adapt.inits.qera import Qera
from pipeline.adapt.inits.qera_diag import QeraDiagonal
from pipeline.adapt.inits.random import Random
from pipeline.adapt.inits.residual_svd import ResidualSvd
from pipeline.adapt.inits.zero import Zero
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel, LayerCompression, LayerStats
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.weight import join_groups

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
    own = stats[0] if compression.needs_statistics else None
    compress = functools.partial(compression.compress, stats=own)
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
    tail = torch.linalg.svdvals((weight - small.dense()) @ stats.roots[0])[3:].square().sum()
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


def test_eva_looks_at_the_directions_in_which_the_inputs_vary_most():
    x = torch.randn(300, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    start = start_of(Eva(), weight_of((5, 6)), 3, [LayerStats(x.T @ x / len(x))])
    V = torch.linalg.svd(x, full_matrices=False).Vh[:3]
    torch.testing.assert_close(start.A.T @ start.A, V.T @ V, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((start.A * V).sum(1).abs(), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert not start.B.any()
    assert not start.residual


def test_the_other_start_at_zero_is_random_in_b():
    start = start_of(Zero(), weight_of((300, 20)).float(), 16)
    assert (start.A.shape, start.B.shape) == ((16, 20), (300, 16))
    assert not start.A.any()
    assert 0.99 / 4 < start.B.abs().max() <= 1 / 4
    assert not sum_of(start).any()


def test_the_control_is_random_in_both_and_disturbs():
    start = start_of(Random(), weight_of((300, 20)).float(), 16)
    assert (start.A.shape, start.B.shape) == ((16, 20), (300, 16))
    assert start.A.abs().max() <= 1 / math.sqrt(20)
    assert start.B.abs().max() <= 1 / 4
    assert sum_of(start, alpha=16.0).norm() > 1
    assert not start.residual


def paper_start(seed: int = 0, inner: int = 300, **options: object) -> Start:
    return start_of(Paper(**options), torch.randn(20, inner), 16, seed=seed)


def test_the_papers_start_adds_nothing():
    start = paper_start()
    assert start.A.shape == (16, 300)
    assert start.B.shape == (20, 16)
    assert start.A.any()
    assert not start.B.any()
    for alpha in (1.0, 64.0):
        assert torch.equal(start.at_scale(alpha)[0], start.A)


def test_the_papers_start_is_kaiming_uniform_unless_a_normal_is_asked_for():
    uniform = paper_start().A
    bound = 1 / math.sqrt(300)
    layer = torch.empty(16, 300)
    nn.init.kaiming_uniform_(layer, a=math.sqrt(5), generator=generator())
    torch.testing.assert_close(uniform, layer)
    assert 0.99 * bound < uniform.abs().max() <= bound

    normal = paper_start(distribution="normal", sigma=0.5).A
    assert normal.std().item() == pytest.approx(0.5, rel=0.05)
    assert normal.abs().max() > 1.2


@pytest.mark.parametrize("init", [Paper(), Paper(distribution="normal"), Zero(), Random()], ids=str)
def test_a_random_start_is_drawn_from_the_given_generator_alone(init):
    before = torch.get_rng_state()
    weight = torch.zeros(3, 5)
    one, again, other = (start_of(init, weight, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.A, again.A)
    assert torch.equal(one.B, again.B)
    assert not (torch.equal(one.A, other.A) and torch.equal(one.B, other.B))
    assert torch.equal(before, torch.get_rng_state())


def test_the_roots_of_a_second_moment_are_those_of_its_damped_form():
    stats = inputs_of(7)
    root, inverse_root = stats.roots
    torch.testing.assert_close(root @ root.T, stats.damped())
    torch.testing.assert_close(root @ inverse_root, torch.eye(7, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    assert stats.eigen is stats.eigen
    assert bool((stats.eigen[0] > 0).all())
