import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import output_error, random_stats

from pipeline.compress.methods.svd import Svd
from pipeline.compress.methods.svdlora import SvdLora

SIZES = [{"rank": 6}, {"energy": 0.8}, {"budget": 0.7}]


@settings(max_examples=20)
@given(out=st.integers(1, 14), inner=st.integers(1, 14), seed=st.integers(0, 99), steps=st.integers(1, 9))
@pytest.mark.parametrize("metric", ["weight", "activation"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_steps_with_exact_factors_are_one_svd_of_the_rank_of_all(size, metric, out, inner, seed, steps):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inner, dtype=torch.float64, generator=generator)
    stats = random_stats(inner, seed)
    one = Svd(**size, metric=metric).compress(weight, stats)
    sums = SvdLora(**size, metric=metric, steps=steps).compress(weight, stats)
    torch.testing.assert_close(sums.dense(), one.dense(), rtol=0, atol=1e-9)
    assert sums.bits == one.bits
    assert sums.macs == one.macs
    assert sums.factors[0].shape == one.factors[0].shape


@pytest.mark.parametrize(("total", "steps", "shares"), [(7, 3, [3, 2, 2]), (6, 2, [3, 3]), (2, 5, [1, 1]), (4, 1, [4])])
def test_the_rank_of_all_is_shared_out_evenly(total, steps, shares):
    small = SvdLora(rank=total, steps=steps).compress(torch.randn(9, 12), None)
    assert [step.second.shape[0] for step in small.steps] == shares


@pytest.mark.parametrize("metric", ["weight", "activation"])
@pytest.mark.parametrize("bits", [8, 1])
def test_later_steps_correct_what_rounding_took_from_earlier_ones(bits, metric):
    weight, stats = torch.randn(40, 20) @ torch.randn(20, 50), random_stats(50)
    moment = stats.second_moment if metric == "activation" else torch.eye(50, dtype=torch.float64)

    def error(steps: int) -> float:
        small = SvdLora(rank=20, steps=steps, bits=bits, metric=metric).compress(weight, stats)
        return float(output_error(weight, small.dense(), moment).sum())

    assert error(5) < 0.7 * error(1)


def test_each_step_lessens_what_is_left_and_adds_its_size():
    weight = torch.randn(40, 50)
    small = SvdLora(rank=16, steps=4, bits=1).compress(weight, None)
    left = [float((weight - sum(step.dense() for step in small.steps[:k])).norm()) for k in range(5)]
    assert left == sorted(left, reverse=True)
    assert small.bits.payload == 16 * (40 + 50)
    assert small.bits.scale == 32 * (4 * 40 + 16)
