"""Gradients through rounding, against their formulas."""

import math

import pytest
import torch

from pipeline.compress.few_bits import Levels, MagnitudeGrid
from pipeline.compress.on_grid import on_grid


@pytest.mark.parametrize("with_zero", [True, False])
def test_gradients_on_an_even_grid_are_those_of_lsq(with_zero):
    w, g = torch.randn(5, 40, dtype=torch.float64), torch.randn(5, 40, dtype=torch.float64)
    s, z = 0.2 + torch.rand(5, 1, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    inputs = [w, s, *([z] if with_zero else [])]
    latent, scale, *zero = (tensor.clone().requires_grad_() for tensor in inputs)
    share = 0.3
    points = on_grid(latent, scale, zero[0] if zero else None, 40, (-2, 1), share)
    found = torch.autograd.grad((points * g).sum(), [latent, scale, *zero])

    position = (w - (z if with_zero else 0)) / s
    code, inside = position.round().clamp(-2, 1), (position > -2.5) & (position < 1.5)
    assert inside.any()
    assert not inside.all()
    torch.testing.assert_close(points.detach(), s * code + (z if with_zero else 0))
    expected = [g * inside, share * (g * (code - position * inside)).sum(1, keepdim=True)]
    if with_zero:
        expected.append(share * (g * ~inside).sum(1, keepdim=True))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "grid", [MagnitudeGrid(1), MagnitudeGrid(3), MagnitudeGrid(2, by_row=True), Levels(6)], ids=str
)
def test_gradients_of_a_grids_parameters_are_divided_by_the_root_of_the_mean_number_of_points(grid):
    latent, mask = torch.randn(6, 10), torch.rand(6, 10) < 0.5
    kept, g = mask.flatten().nonzero().flatten(), torch.randn(6, 10)
    parameters = {name: tensor.requires_grad_() for name, tensor in grid.fit(latent, mask).items()}
    tensors = {"latent": latent, "kept": kept, **parameters}
    found = torch.autograd.grad((grid.rounded(tensors) * g).sum(), list(parameters.values()))

    points = grid.points(grid.nearest_kept(tensors), grid.at(kept, 10, parameters))
    sums = torch.autograd.grad((points * g.flatten()[kept]).sum(), list(parameters.values()))
    root = math.sqrt(len(kept) / parameters[grid.names[0]].numel())
    for one, total in zip(found, sums, strict=True):
        torch.testing.assert_close(one, total / root, rtol=1e-4, atol=1e-5)
