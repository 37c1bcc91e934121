from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import random_stats

from pipeline.compress.methods.intn import IntN

FORMS = [{"symmetric": symmetric, "group": group} for symmetric in (True, False) for group in (0, 5)]
EACH_FORM = pytest.mark.parametrize("form", FORMS, ids=str)
BITS = (2, 3, 4, 8)


def random_rows(out: int, inner: int, seed: int) -> torch.Tensor:
    """Rows of unequal size and mean, some weights far out."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inner, generator=generator) ** 3 + torch.randn(out, 1, generator=generator)
    return weight * torch.rand(out, 1, generator=generator)


def spread(of_groups: torch.Tensor, group: int, inner: int) -> torch.Tensor:
    return of_groups.repeat_interleave(group or inner, 1)[:, :inner]


shapes = given(out=st.integers(1, 9), inner=st.integers(1, 40), seed=st.integers(0, 999))


@settings(max_examples=40)
@shapes
@pytest.mark.parametrize("bits", BITS)
@EACH_FORM
def test_a_weight_is_within_half_a_step_unless_it_was_clipped_to_an_end(form, bits, out, inner, seed):
    weight = random_rows(out, inner, seed)
    small = IntN(bits=bits, **form).compress(weight, None)
    step, code = spread(small.scale, form["group"], inner), small.code.int()
    off = weight - small.dense()
    allowed = step * (0.5 + 1e-4) + 1e-6 * weight.abs()
    assert bool(((off <= allowed) | (code == 2**bits - 1)).all())
    assert bool(((-off <= allowed) | (code == 0)).all())
    covering = IntN(bits=bits, clip=False, **form).compress(weight, None)
    step = spread(covering.scale, form["group"], inner)
    assert bool(((weight - covering.dense()).abs() <= step * (0.5 + 1e-4) + 1e-6 * weight.abs()).all())


@settings(max_examples=15)
@shapes
@EACH_FORM
def test_more_bits_never_err_more_nor_does_a_searched_clip(form, out, inner, seed):
    weight = random_rows(out, inner, seed)
    rounding = 1e-10 * weight.double().square().sum(1)
    errors = {}
    for bits in BITS:
        for clip in (True, False):
            dense = IntN(bits=bits, clip=clip, **form).compress(weight, None).dense()
            errors[bits, clip] = (weight - dense).double().square().sum(1)
        assert bool((errors[bits, True] <= errors[bits, False] * (1 + 1e-4) + rounding).all())
    for fewer, more in pairwise(BITS):
        assert bool((errors[more, True] <= errors[fewer, True] * (1 + 1e-4) + rounding).all())


def test_a_clip_is_worth_it_at_few_bits_and_a_zero_point_for_one_sided_rows():
    weight = torch.randn(50, 200)

    def error(weight, **options):
        return (IntN(**options).compress(weight, None).dense() - weight).square().sum()

    assert error(weight, bits=3) < 0.6 * error(weight, bits=3, clip=False)
    assert error(weight + 3, symmetric=False) < 0.5 * error(weight + 3)
    assert error(weight, group=20) < 0.8 * error(weight)


def test_weights_that_lie_on_the_grid_come_back_as_they_are():
    codes = torch.arange(-8, 8).repeat(3, 1)
    weight = codes * torch.tensor([[0.5], [2.0], [0.125]])
    small = IntN(bits=4).compress(weight, None)
    assert torch.equal(small.dense(), weight)
    assert torch.equal(small.code.int() - 8, codes.int())
    affine = weight + 1000
    assert torch.equal(IntN(bits=4, symmetric=False).compress(affine, None).dense(), affine)


@pytest.mark.parametrize(("group", "groups"), [(0, 1), (4, 3), (5, 2), (10, 1), (99, 1)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_have_scales_of_their_own_and_the_last_may_be_short(group, groups, symmetric):
    weight = torch.randn(6, 10)
    method = IntN(group=group, symmetric=symmetric)
    small = method.compress(weight, None)
    assert small.scale.shape == (6, groups)
    assert small.bits.payload == 6 * 10 * 4
    assert small.bits.scale == 32 * 6 * groups * (1 if symmetric else 2)
    for start in range(0, 10, group or 10):
        columns = weight[:, start : start + (group or 10)]
        alone = IntN(symmetric=symmetric).compress(columns, None).dense()
        assert torch.equal(small.dense()[:, start : start + (group or 10)], alone)


@EACH_FORM
@pytest.mark.parametrize("clip", [True, False])
def test_fault_14_rows_of_zeros_stay_zero_and_rows_of_one_value_keep_it(form, clip):
    weight = torch.zeros(3, 12)
    weight[1] = 0.3
    weight[2, 4] = -2.0
    dense = IntN(clip=clip, bits=8, **form).compress(weight, None).dense()
    assert torch.equal(dense[0], weight[0])
    torch.testing.assert_close(dense, weight, rtol=0, atol=2.0 / 127 * 0.51)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_constant_row_that_is_trained_keeps_one_code_and_its_value_gets_the_gradient(symmetric):
    weight = torch.zeros(2, 8) if symmetric else torch.full((2, 8), 0.5)
    small = IntN(bits=2, symmetric=symmetric).compress(weight, None)
    tensors = small.to_trainable(weight)
    latent = (tensors["latent"] + 0.1 * torch.randn(2, 8)).requires_grad_()
    zero = tensors["zero"].clone().requires_grad_() if "zero" in tensors else None
    begun = {**tensors, "latent": latent, **({} if zero is None else {"zero": zero})}
    small.project(begun).sum().backward()
    assert not latent.grad.any()
    if zero is not None:
        torch.testing.assert_close(zero.grad, torch.full((2, 1), 8 / 24**0.5))
    assert len(small.latent_codes(begun)["latent"][0].unique()) == 1


@pytest.mark.parametrize("rounding", ["gptq", "coordinate"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_latent_of_another_code_than_the_nearest_is_mirrored_into_its_cell(rounding, symmetric):
    torch.manual_seed(0)
    weight = torch.randn(6, 40)
    small = IntN(bits=2, symmetric=symmetric, rounding=rounding).compress(weight, random_stats(40))
    latent, step = small.to_trainable(weight)["latent"], small.scale.abs()
    point = small.dense()
    beyond = (weight - point).abs() / step - 0.5
    moved = (beyond > 0.01) & (beyond < 0.49) & ((weight - point).sign() != (small.code.double() - 1.5).sign())
    assert moved.any()
    torch.testing.assert_close(((latent - point).abs() / step)[moved], (0.5 - beyond)[moved], atol=5e-3, rtol=0)
