import math

import pytest
import torch
from torch import nn

from pipeline.adapt.contract import Start
from pipeline.adapt.inits.paper import Paper
from pipeline.adapt.inits.svd import ResidualSvd
from pipeline.adapt.lora import Lora
from pipeline.compress.int1 import Int1
from pipeline.compress.none import NoCompression
from pipeline.compress.sparse import Sparse

SHAPES = [(9, 14), (14, 9), (1, 6), (20, 1)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def svd_start(
    shape: tuple[int, int], rank: int, compression: Int1 | Sparse | None = None
) -> tuple[torch.Tensor, Start]:
    """A residual, and its start."""
    weight = torch.randn(shape, dtype=torch.float64, generator=generator(7))
    small = (compression or Int1()).compress(weight, None)
    return weight - small.dense(), ResidualSvd().start(weight, small, rank, (), generator())


def sum_of(start: Start, adapter: Lora, alpha: float) -> torch.Tensor:
    """``s B A`` of a lane that begins at ``start``."""
    begun = adapter.begin(nn.ModuleDict({"fc": nn.Identity()}), {"fc": start}, alpha)
    return adapter.s(alpha, len(start.A)) * begun["fc.lora_B"] @ begun["fc.lora_A"]


@pytest.mark.parametrize("scale", ["alpha/r", "alpha/sqrt(r)"])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 16.0, 48.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_svd_start_is_the_nearest_of_its_rank_to_the_residual_at_any_alpha(shape, alpha, scale):
    for rank in range(1, min(shape) + 1):
        residual, start = svd_start(shape, rank)
        added = sum_of(start, Lora(scale=scale), alpha)
        error = (residual - added).square().sum()
        tail = torch.linalg.svdvals(residual)[rank:].square().sum()
        assert torch.linalg.matrix_rank(added) <= rank
        torch.testing.assert_close(error, tail, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("compression", [Int1(scale="none"), Sparse(block="1:4")], ids=str)
def test_more_rank_never_fits_worse_and_full_rank_fits_exactly(compression):
    errors = []
    for rank in range(1, 10):
        residual, start = svd_start((9, 14), rank, compression)
        errors.append(float((residual - sum_of(start, Lora(), 8.0)).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_every_rank_of_the_svd_start_is_a_prefix_of_the_highest(shape):
    _, highest = svd_start(shape, min(shape))
    assert ResidualSvd.nested
    for rank in range(1, min(shape) + 1):
        _, own = svd_start(shape, rank)
        assert torch.equal(highest.prefix(rank).A, own.A)
        assert torch.equal(highest.prefix(rank).B, own.B)
        assert highest.prefix(rank).residual


def test_a_weight_that_lost_nothing_starts_at_zero_and_can_still_learn_from_every_input_it_looks_at():
    weight = torch.randn(4, 6)
    weight[:, 0] = 0
    start = ResidualSvd().start(weight, NoCompression().compress(weight, None), 2, (), generator())
    assert not sum_of(start, Lora(), 4.0).any()
    assert not start.B.any()
    assert bool((start.A[:, 1:].abs() > 1e-6).all())
    torch.testing.assert_close(start.A @ start.A.T, torch.eye(2))


def paper_start(seed: int = 0, inner: int = 300, **options: object) -> Start:
    weight = torch.randn(20, inner)
    return Paper(**options).start(weight, Int1().compress(weight, None), 16, (), generator(seed))


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


@pytest.mark.parametrize("distribution", ["kaiming", "normal"])
def test_the_papers_start_is_drawn_from_the_given_generator_alone(distribution):
    before = torch.get_rng_state()
    one = Paper(distribution=distribution)
    weight = torch.zeros(3, 5)
    starts = [one.start(weight, Int1().compress(weight, None), 2, (), generator(seed)).A for seed in (1, 1, 2)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(before, torch.get_rng_state())
