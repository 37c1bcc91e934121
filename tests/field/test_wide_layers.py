"""Layers too wide for a second moment: it is held as their input vectors, and gives what the matrix would give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_starts import start_of, weight_of
from methods import label, variants
from tiny_studies import BatchNormNet, make_objective, make_spec, make_task
from torch import nn

from pipeline.compress import layer_statistics
from pipeline.compress.contract import LayerCompression
from pipeline.compress.layer_statistics import gather_statistics, is_wide, statistics_bytes
from pipeline.compress.model_stats import mean_stats
from pipeline.compress.second_moment import LayerStats, SampledStats
from pipeline.config.registry import ALLOCATIONS, COMPRESSIONS, INITS
from pipeline.space import cells, middle

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**31))
"""Vectors, inputs, outputs and seed."""
NEEDING = [
    method for method in variants(COMPRESSIONS) if isinstance(method, LayerCompression) and method.needs_statistics
]


def both_forms(n: int, inner: int, seed: int = 0) -> tuple[LayerStats, SampledStats]:
    """The second moment of ``n`` vectors as a matrix, and as the vectors."""
    X = torch.randn(n, inner, generator=torch.Generator().manual_seed(seed))
    X *= torch.logspace(-1, 1, inner)
    return LayerStats(X.double().T @ X.double() / n), SampledStats(X)


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max() + 1e-30))


@given(SIZES)
def test_products_are_those_of_the_matrix(sizes):
    n, inner, out, seed = sizes
    matrix, sample = both_forms(n, inner, seed)
    M = weight_of((out, inner), seed)
    D = matrix.damped()
    close(sample.second_moment, matrix.second_moment)
    close(sample.diagonal, matrix.diagonal)
    close(sample.times_moment(M), M @ D)
    close(sample.times_root(M), matrix.times_root(M))
    close(sample.times_inverse_root(sample.times_root(M)), M, 1e-5)
    chosen = torch.randperm(inner)[: max(1, inner // 2)]
    close(sample.submoment(chosen), D[chosen[:, None], chosen])


@given(SIZES)
def test_directions_are_orthonormal_and_hold_as_much_of_the_inputs(sizes):
    n, inner, _, seed = sizes
    matrix, sample = both_forms(n, inner, seed)
    V = sample.directions(inner)
    close(V @ V.T, torch.eye(inner, dtype=torch.float64))
    of = [(V * (V @ matrix.second_moment)).sum(1) for V in (V, matrix.directions(inner))]
    close(*of)


def test_groups_share_the_mean_of_their_moments():
    pairs = [both_forms(5, 7, seed) for seed in range(3)]
    matrices, samples = zip(*pairs, strict=True)
    close(mean_stats(samples).second_moment, mean_stats(matrices).second_moment)


@pytest.mark.parametrize("init", [init() for init in INITS if init.needs_statistics], ids=label)
@pytest.mark.parametrize("n", [3, 40])
def test_every_init_starts_at_the_same_product_and_as_near_to_the_weight(init, n):
    matrix, sample = both_forms(n, 11)
    weight = weight_of((6, 11))
    for rank in (1, 4, 6):
        one, other = (start_of(init, weight, rank, [stats]) for stats in (matrix, sample))
        close(other.B.double() @ other.A.double(), one.B.double() @ one.A.double(), 1e-4)


@pytest.mark.parametrize("compression", NEEDING, ids=label)
@pytest.mark.parametrize("n", [3, 40])
def test_every_compression_by_activations_gives_the_same_weight(compression, n):
    matrix, sample = both_forms(n, 16)
    weight = weight_of((8, 16)).float()
    one, other = (compression.compress(weight, stats) for stats in (matrix, sample))
    assert other.bits == one.bits
    close(other.dense(), one.dense(), 1e-4)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3, groups=2)], ids=str)
def test_all_vectors_are_kept_where_there_are_few(layer, monkeypatch):
    shape = (6,) if isinstance(layer, nn.Linear) else (6, 5, 5)
    batches = torch.randn(20, *shape).split(6)
    (whole,) = gather_statistics(nn.Sequential(layer), ["0"], batches).values()
    monkeypatch.setattr(layer_statistics, "MOMENT_LIMIT", 0)
    (sampled,) = gather_statistics(nn.Sequential(layer), ["0"], batches).values()
    assert len(sampled) == len(whole)
    for sample, moment in zip(sampled, whole, strict=True):
        assert isinstance(sample, SampledStats)
        close(sample.second_moment, moment.second_moment)


def test_of_many_vectors_each_has_the_same_chance(monkeypatch):
    monkeypatch.setattr(layer_statistics, "MOMENT_LIMIT", 0)
    monkeypatch.setattr(layer_statistics, "VECTORS", 500)
    numbered = torch.arange(5000.0)[:, None]
    layer = nn.Sequential(nn.Linear(1, 1))
    kept = [gather_statistics(layer, ["0"], numbered.split(size))["0"][0].vectors[:, 0] for size in (7, 5000)]
    assert [len(set(one.tolist())) for one in kept] == [500, 500]
    assert torch.equal(kept[0], kept[1]), "it does not depend on the batches"
    assert (kept[0].mean() - 2500).abs() < 250
    assert torch.histc(kept[0], 5, 0, 5000).min() > 60


@pytest.mark.parametrize("changes", [{"inits": ["qera", "eva", "qera_diag"]}, {"allocation": "gain", "ranks": [2000]}])
def test_a_trial_of_wide_layers_trains_and_never_holds_a_square_matrix_of_the_inputs(changes, monkeypatch):
    monkeypatch.setattr(layer_statistics, "MOMENT_LIMIT", 0)
    monkeypatch.setattr(SampledStats, "second_moment", property(lambda _: pytest.fail("a matrix [in, in]")))
    objective = make_objective(make_spec(epochs=1, **changes), make_task(BatchNormNet))
    for cell in cells(objective.combination.search):
        lane = objective.lane(middle(cell, objective.combination.search, objective.combination.adapter))
        assert list(objective.epochs(lane)) == [1]
        assert lane.failure is None


@pytest.mark.parametrize("by", [one.name for one in ALLOCATIONS])
def test_a_budget_is_spread_as_by_whole_moments(by, monkeypatch):
    spec, task = make_spec(allocation=by, ranks=[900, 2000]), make_task(BatchNormNet)
    whole = [make_objective(spec, task).combination.layer_ranks(budget) for budget in (900, 2000)]
    monkeypatch.setattr(layer_statistics, "MOMENT_LIMIT", 0)
    sampled = [make_objective(spec, task).combination.layer_ranks(budget) for budget in (900, 2000)]
    assert sampled == whole


def test_wide_layers_take_memory_by_their_vectors_and_narrow_ones_by_their_inputs():
    wide, narrow = nn.Linear(25_088, 10, device="meta"), nn.Linear(512, 10, device="meta")
    assert (is_wide(wide), is_wide(narrow)) == (True, False)
    assert statistics_bytes(wide, 100) == 100 * statistics_bytes(wide, 1) < 10**8
    assert statistics_bytes(wide, 10**9) < 4 * 10**9 < 4 * 8 * 25_088**2
    assert statistics_bytes(narrow, 100) == statistics_bytes(narrow, 10**9) == 4 * 8 * 512**2
