import math

import pytest
import torch
from layer_starts import generator, start_of, sum_of, weight_of
from torch import nn

from pipeline.adapt.inits.contract import Start
from pipeline.adapt.inits.paper import Paper
from pipeline.adapt.inits.random import Random
from pipeline.adapt.inits.zero import Zero


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
