import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import label
from moments import output_error, random_stats
from torch import Tensor

from pipeline.compress import rounding
from pipeline.compress.even_grid import EvenGrid
from pipeline.compress.few_bits import MagnitudeGrid
from pipeline.compress.methods.int1 import Int1, SignGrid
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.rounding import DAMPING, Error, carried
from pipeline.compress.second_moment import LayerStats, SampledStats
from pipeline.compress.sparse_rounding import SparseGrid
from pipeline.compress.sparsity import Share

METHODS = [
    Int1(),
    Int1(scale="tensor"),
    Int1(scale="none"),
    IntN(bits=2),
    IntN(bits=3, symmetric=False),
    IntN(bits=4, group=5),
    IntN(bits=2, group=4, symmetric=False),
    Sparse(block="2:4"),
    Sparse(block="3x3"),
    Sparse(keep=0.3),
    Sparse(keep=0.3, values={"bits": 3}),
    Sparse(keep=0.3, values={"bits": 2, "scale": "row"}),
    Sparse(block="2:4", values={"levels": 5}),
]


def with_rounding(method, way):
    return method.model_copy(update={"rounding": way})


@pytest.mark.parametrize("method", METHODS, ids=label)
@pytest.mark.parametrize("way", ["gptq", "coordinate"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), out=st.integers(1, 9), inner=st.integers(1, 23), dead=st.integers(0, 3))
def test_rounding_by_inputs_never_changes_the_outputs_more_than_nearest_rounding(method, way, seed, out, inner, dead):
    generator = torch.Generator().manual_seed(seed)
    W, stats = torch.randn(out, inner, generator=generator), random_stats(inner, seed, min(dead, inner - 1))
    D = stats.with_ridge(DAMPING).damped()
    nearest, found = (with_rounding(method, each).compress(W, stats).dense() for each in ("nearest", way))
    scale = float(((W.double() @ D) * W).sum())
    # Scales are rounded to float32, so that the tolerance is a share of the outputs' own size.
    assert float(output_error(W, found, D).sum()) <= float(output_error(W, nearest, D).sum()) + 1e-6 * scale


WHITE = {"seed": st.integers(0, 10**6), "out": st.integers(1, 9), "inner": st.integers(1, 23)}


ONES = torch.ones(3, 6, dtype=torch.bool)


def white(inner, variance):
    return LayerStats(variance * torch.eye(inner, dtype=torch.float64))


@pytest.mark.parametrize(
    "method", [Int1(), Int1(scale="tensor"), Int1(scale="none"), Sparse(block="2:4"), Sparse(block="4x4")], ids=label
)
@settings(max_examples=10, deadline=None)
@given(**WHITE, variance=st.floats(1e-6, 1e6))
def test_where_inputs_are_white_it_is_nearest_rounding(method, seed, out, inner, variance):
    W = torch.randn(out, inner, generator=torch.Generator().manual_seed(seed))
    stats = white(inner, variance)
    nearest, found = (with_rounding(method, way).compress(W, stats).dense() for way in ("nearest", "gptq"))
    torch.testing.assert_close(found, nearest)


def sign_grid(W):
    return SignGrid(torch.rand(len(W), 1, dtype=torch.float64), fixed=True)


def even_grid(symmetric, group):
    def make(W):
        scale = 0.1 + torch.rand(len(W), -(-W.shape[1] // group), dtype=torch.float64)
        return EvenGrid(scale, -4 * scale if symmetric else torch.randn_like(scale), 3, group, symmetric)

    return make


GRIDS = {
    "int1": sign_grid,
    "intN": even_grid(symmetric=True, group=99),
    "intN in groups": even_grid(symmetric=True, group=5),
    "intN with zeros": even_grid(symmetric=False, group=4),
}


@pytest.mark.parametrize("make", GRIDS.values(), ids=GRIDS)
@settings(max_examples=10, deadline=None)
@given(**WHITE, variance=st.floats(1e-6, 1e6))
def test_the_codes_on_a_given_grid_are_the_nearest_where_inputs_are_white(make, seed, out, inner, variance):
    W = torch.randn(out, inner, generator=torch.Generator().manual_seed(seed)).double()
    grid = make(W)
    _, values = carried(grid, Error(W, white(inner, variance)))
    if isinstance(grid, SignGrid):
        expected = torch.where(W >= 0, grid.scale, -grid.scale)
    else:
        of_column = torch.arange(inner) // grid.group
        points = (grid.zero[:, :, None] + grid.scale[:, :, None] * torch.arange(8.0))[:, of_column]  # [out, in, 8]
        expected = points.gather(2, (points - W[:, :, None]).abs().argmin(2, keepdim=True))[:, :, 0]
    torch.testing.assert_close(values, expected)


def by_definition(W: Tensor, D: Tensor, scale: Tensor, order: list[int]) -> Tensor:
    """GPTQ as first written: the inverse of what is left of the moment, column by column."""
    W, Q, left = W.clone(), torch.zeros_like(W), list(order)
    while left:
        inverse = torch.linalg.inv(D[left][:, left])
        j = left[0]
        Q[:, j] = torch.where(W[:, j] >= 0, scale[:, 0], -scale[:, 0])
        W[:, left] -= ((W[:, j] - Q[:, j]) / inverse[0, 0])[:, None] * inverse[0]
        left = left[1:]
    return Q


def test_blocks_of_columns_give_what_the_definition_gives(monkeypatch):
    monkeypatch.setattr(rounding, "BLOCK", 4)
    W, stats = torch.randn(6, 14).double(), random_stats(14)
    grid, error = SignGrid(torch.rand(6, 1, dtype=torch.float64), fixed=True), Error(W, stats)
    order = error.diagonal.argsort(descending=True).tolist()
    expected = by_definition(W, stats.with_ridge(DAMPING).damped(), grid.scale, order)
    assert torch.equal(carried(grid, error)[1], expected)


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_coordinate_rounding_is_never_worse_than_gptq(method):
    W, stats = torch.randn(9, 23), random_stats(23)
    D = stats.with_ridge(DAMPING).damped()
    gptq, coordinate = (with_rounding(method, way).compress(W, stats).dense() for way in ("gptq", "coordinate"))
    assert float(output_error(W, coordinate, D).sum()) <= float(output_error(W, gptq, D).sum()) * (1 + 1e-6)


def test_correlated_inputs_are_served_much_better_than_by_nearest_rounding():
    X = torch.randn(400, 4, dtype=torch.float64) @ torch.randn(4, 32, dtype=torch.float64)
    X += 0.1 * torch.randn(400, 32, dtype=torch.float64)
    W, stats = torch.randn(16, 32), LayerStats(X.T @ X / 400)
    errors = [
        float(output_error(W, IntN(bits=3, rounding=way).compress(W, stats).dense(), stats.second_moment).sum())
        for way in ("nearest", "gptq", "coordinate")
    ]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] <= errors[1]


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_the_vectors_of_a_wide_layer_serve_as_their_moment_does(method):
    X, W = torch.randn(60, 23).double(), torch.randn(9, 23)
    stats = [LayerStats(X.T @ X / 60), SampledStats(X)]
    D = stats[0].with_ridge(DAMPING).damped()
    exact, sampled = (with_rounding(method, "coordinate").compress(W, each).dense() for each in stats)
    torch.testing.assert_close(output_error(W, sampled, D).sum(), output_error(W, exact, D).sum(), rtol=1e-3, atol=0)


def test_a_layer_wider_than_the_widest_moment_is_rounded_in_chunks_and_still_gains(monkeypatch):
    monkeypatch.setattr(rounding, "WIDEST", 8)
    W, stats = torch.randn(9, 23), random_stats(23)
    D = stats.with_ridge(DAMPING).damped()
    errors = [
        float(output_error(W, IntN(bits=2, rounding=way).compress(W, stats).dense(), D).sum())
        for way in ("nearest", "coordinate")
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_the_packed_size_is_that_of_nearest_rounding(method):
    W, stats = torch.randn(9, 24), random_stats(24)
    sizes = {with_rounding(method, way).compress(W, stats).bits.total() for way in ("nearest", "gptq", "coordinate")}
    assert len(sizes) == 1
    small = with_rounding(method, "coordinate").compress(W, stats)
    again = method.from_tensors(small.to_tensors(), (9, 24))
    assert torch.equal(again.dense(), small.dense())


def test_a_run_keeps_the_weights_whose_loss_costs_most_as_many_as_by_magnitude():
    columns, cost = torch.randn(7, 5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    start, run = torch.rand(7, 9) < 0.4, torch.tensor([8, 0, 3, 5, 1])
    grid = SparseGrid(Share(0.4), start, torch.zeros(7, 9, dtype=torch.bool))
    grid.begin(columns, cost, run)
    scores, kept = columns.square() * cost, grid.kept[:, run]
    assert kept.sum() == start[:, run].sum() == grid.kept.sum()
    assert scores[kept].min() > scores[~kept].max()


@pytest.mark.parametrize(
    "grid",
    [
        EvenGrid(torch.ones(3, 1).double(), torch.full((3, 1), -4.0).double(), 3, 9, symmetric=True),
        SparseGrid(Share(0.9), ONES, ONES, MagnitudeGrid(1), {"zero": torch.ones(1, 1).double()}),
    ],
    ids=["intN", "sparse"],
)
def test_a_fit_that_would_turn_the_order_of_the_codes_leaves_the_grid(grid):
    values = torch.ones(3, 6, dtype=torch.float64)
    _, found = grid.refitted(values, Error(-values, random_stats(6)))
    assert torch.equal(found, values)
