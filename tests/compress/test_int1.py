import pytest
import torch
from moments import output_error, random_stats

from pipeline.compress.methods.int1 import Int1
from pipeline.compress.second_moment import LayerStats


def weight_with_zeros() -> torch.Tensor:
    weight = torch.randn(6, 11) * torch.rand(6, 1)
    weight[0, 0], weight[1, 1] = 0.0, -0.0
    return weight


def test_each_row_is_its_signs_times_its_mean_magnitude_and_zero_is_positive():
    weight = weight_with_zeros()
    small = Int1().compress(weight, None)
    signs = torch.where(weight < 0, -1.0, 1.0)
    assert small.dense()[0, 0] > 0
    assert small.dense()[1, 1] > 0
    torch.testing.assert_close(small.dense(), weight.abs().mean(1, keepdim=True) * signs)


def test_one_scale_for_the_tensor_is_the_mean_magnitude_of_all():
    weight = weight_with_zeros()
    small = Int1(scale="tensor").compress(weight, None)
    torch.testing.assert_close(small.dense().abs(), weight.abs().mean().expand(6, 11))


@pytest.mark.parametrize("metric", ["weight", "activation"])
def test_without_a_scale_the_signs_alone_are_kept(metric):
    weight = weight_with_zeros()
    small = Int1(scale="none", metric=metric).compress(weight, random_stats(11))
    assert set(small.dense().flatten().tolist()) == {-1.0, 1.0}
    assert torch.equal(weight - small.dense(), weight - torch.where(weight < 0, -1.0, 1.0))
    assert not Int1(scale="none", metric=metric).needs_statistics


@pytest.mark.parametrize("scale", ["row", "tensor"])
@pytest.mark.parametrize("metric", ["weight", "activation"])
def test_no_other_scale_has_a_smaller_error_in_its_metric(scale, metric):
    weight = weight_with_zeros().double()
    moment = random_stats(11).second_moment if metric == "activation" else torch.eye(11, dtype=torch.float64)
    method = Int1(scale=scale, metric=metric)
    dense = method.compress(weight, random_stats(11)).dense()
    assert method.needs_statistics == (metric == "activation")
    best = output_error(weight, dense, moment)
    for factor in (0.9, 0.99, 0.999, 1.001, 1.01, 1.1):
        worse = output_error(weight, dense * factor, moment)
        assert bool((worse > best).all()) if scale == "row" else worse.sum() > best.sum()


def test_the_activation_scale_is_the_closed_form():
    weight, stats = weight_with_zeros().double(), random_stats(11)
    dense = Int1(metric="activation").compress(weight, stats).dense()
    for w, q in zip(weight, dense.sign(), strict=True):
        C = stats.second_moment
        torch.testing.assert_close(
            q * (w @ C @ q) / (q @ C @ q), dense[int((weight == w).all(1).nonzero())], rtol=1e-4, atol=0
        )


@pytest.mark.parametrize(("scale", "have"), [("tensor", "one scale for the whole weight"), ("none", "no scale")])
def test_a_gain_of_each_row_is_refused_where_rows_have_no_scale_of_their_own(scale, have):
    small = Int1(scale=scale).compress(weight_with_zeros(), None)
    with pytest.raises(ValueError, match=f'int1 stores {have}, .* choose scale = "row"'):
        small.scaled_rows(torch.ones(6))


@pytest.mark.parametrize("method", [Int1(), Int1(scale="tensor"), Int1(metric="activation")], ids=str)
def test_fault_14_a_zero_weight_and_dead_inputs_give_a_zero_weight(method):
    for stats in (random_stats(11), random_stats(11, dead=4), random_stats(11, dead=11)):
        assert torch.equal(method.compress(torch.zeros(3, 11), stats).dense(), torch.zeros(3, 11))
        assert method.compress(torch.randn(3, 11), stats).dense().isfinite().all()


@pytest.mark.parametrize("scale", ["row", "tensor"])
def test_codes_of_a_scale_that_is_fitted_below_zero_begin_as_they_were_rounded(scale):
    weight = torch.tensor([[10.0, 0.1]])
    stats = LayerStats(torch.tensor([[1.0, -2.0], [-2.0, 5.0]], dtype=torch.float64))
    small = Int1(scale=scale, metric="activation").compress(weight, stats)
    assert small.scale < 0
    tensors = small.to_trainable(weight)
    assert torch.equal(small.project(tensors), small.dense())
    assert torch.equal(small.with_trained(tensors).dense(), small.dense())


@pytest.mark.parametrize("rounding", ["gptq", "coordinate"])
def test_the_latent_of_a_sign_that_rounding_turned_is_as_large_as_the_weight(rounding):
    torch.manual_seed(0)
    weight = torch.randn(6, 40)
    small = Int1(rounding=rounding).compress(weight, random_stats(40))
    latent = small.to_trainable(weight)["latent"]
    turned = small.dense().sign() != weight.sign()
    assert turned.any()
    torch.testing.assert_close(latent, torch.where(turned, -weight, weight), atol=2e-3, rtol=0)  # never quite 0
