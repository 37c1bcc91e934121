import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.compress.few_bits import FewBits, Levels, MagnitudeGrid

GRIDS = [
    MagnitudeGrid(1),
    MagnitudeGrid(2),
    MagnitudeGrid(4, by_row=True),
    MagnitudeGrid(8),
    Levels(2),
    Levels(6),
    Levels(40),
]
EACH_GRID = pytest.mark.parametrize("grid", GRIDS, ids=str)


def error(grid, values, kept, parameters):
    points = grid.points(grid.nearest(values, parameters), parameters)
    return float(((points - values).square() * kept).sum())


@EACH_GRID
@settings(max_examples=25)
@given(seed=st.integers(0, 999), size=st.floats(1e-3, 1e3))
def test_codes_fit_their_width_and_each_point_is_its_own_nearest(grid, seed, size):
    generator = torch.Generator().manual_seed(seed)
    values = size * torch.randn(6, 9, generator=generator)
    kept = torch.rand(6, 9, generator=generator) < 0.5
    parameters = grid.fit(values, kept)
    assert set(parameters) == set(grid.names)
    codes = grid.nearest(values, parameters)
    assert torch.equal(codes, codes.round())
    assert 0 <= codes.min() <= codes.max() < 2**grid.width
    points = grid.points(codes, parameters)
    again = grid.points(grid.nearest(points, parameters), parameters)
    torch.testing.assert_close(again, points, rtol=1e-4, atol=1e-5 * size)


@EACH_GRID
def test_no_other_point_is_nearer_than_the_nearest(grid):
    values, kept = torch.randn(5, 30), torch.ones(5, 30, dtype=torch.bool)
    parameters = grid.fit(values, kept)
    near = (grid.points(grid.nearest(values, parameters), parameters) - values).abs()
    for code in range(grid.count if isinstance(grid, Levels) else 2**grid.width):
        other = grid.points(torch.full_like(values, code), parameters)
        assert (near <= (other - values).abs() + 1e-5).all()


@EACH_GRID
def test_fitted_parameters_err_no_more_than_the_whole_range_spread_evenly(grid):
    values, kept = torch.randn(8, 200), torch.rand(8, 200) < 0.3
    size = values[kept].abs()
    if isinstance(grid, Levels):
        plain = {"level": torch.linspace(float(values[kept].min()), float(values[kept].max()), grid.count)}
    else:
        steps = max(1, grid.half - 1)
        plain = {"zero": size.min()[None, None], "scale": ((size.max() - size.min()) / steps)[None, None]}
    assert error(grid, values, kept, grid.fit(values, kept)) <= error(grid, values, kept, plain) * (1 + 1e-6)


@EACH_GRID
def test_lanes_have_the_codes_and_points_that_each_has_alone(grid):
    values = torch.randn(3, 4, 10)
    kept = torch.ones(4, 10, dtype=torch.bool)
    alone = [grid.fit(one, kept) for one in values]
    stacked = {name: torch.stack([each[name] for each in alone]) for name in grid.names}
    codes = torch.vmap(grid.nearest)(values, stacked)
    for lane, (one, parameters) in enumerate(zip(values, alone, strict=True)):
        assert torch.equal(codes[lane], grid.nearest(one, parameters))
    points = torch.vmap(grid.points)(codes, stacked)
    assert all(torch.equal(points[i], grid.points(codes[i], alone[i])) for i in range(3))


def test_few_different_values_are_kept_exactly():
    values = torch.tensor([-3.0, -1.0, 0.5, 2.0])[torch.randint(4, (20, 20))]
    grid, kept = Levels(4), torch.ones(20, 20, dtype=torch.bool)
    torch.testing.assert_close(grid.fit(values, kept)["level"], torch.tensor([-3.0, -1.0, 0.5, 2.0]))
    magnitudes = torch.tensor([-4.0, -3.0, 3.0, 4.0])[torch.randint(4, (20, 20))]
    assert error(MagnitudeGrid(2), magnitudes, kept, MagnitudeGrid(2).fit(magnitudes, kept)) == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize(
    "options", [{}, {"bits": 3, "levels": 6}, {"bits": 9}, {"levels": 1}, {"levels": 4, "scale": "row"}]
)
def test_options_that_say_nothing_or_two_things_are_refused(options):
    with pytest.raises(ValidationError):
        FewBits(**options)
