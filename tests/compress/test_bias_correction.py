import pytest
import torch
from methods import images, mlp, settled, statistics
from moments import random_stats
from torch import nn

from pipeline.compress.layer_statistics import gather_statistics
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.methods.svd import Svd
from pipeline.compress.second_moment import LayerStats, SampledStats

METHODS = [
    Int1(bias="corrected"),
    Int1(bias="corrected", metric="activation", ridge=2.0),
    IntN(bits=2, bias="corrected"),
    Sparse(bias="corrected", refit=True),
    Svd(bias="corrected", metric="activation"),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_corrected_bias_gives_each_layer_its_mean_outputs_again(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 20)).eval()
    x = torch.randn(64, 4, 6, 6) + 1
    stats = gather_statistics(model, ["0", "3"], x.split(16))
    small = method.compress_model(model, ["0", "3"], stats).model
    with torch.no_grad():
        torch.testing.assert_close(small[0](x).mean((0, 2, 3)), model[0](x).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        inputs = model[:3](x)
        torch.testing.assert_close(small[3](inputs).mean(0), model[3](inputs).mean(0), rtol=1e-4, atol=1e-5)
    assert not torch.equal(small[3].bias, model[3].bias)


def test_a_layer_without_a_bias_is_compressed_on_uncentred_moments_and_gets_none():
    model = nn.Sequential(nn.Linear(12, 20, bias=False))
    stats = statistics(model, ["0"], 12)
    corrected, plain = (Int1(metric="activation", bias=bias) for bias in ("corrected", "kept"))
    small = corrected.compress_model(model, ["0"], stats)
    assert small.model[0].bias is None
    assert torch.equal(small.weights["0"].dense(), plain.compress_model(model, ["0"], stats).weights["0"].dense())


def test_scales_are_fitted_to_centred_inputs_where_a_bias_takes_the_mean():
    model = nn.Sequential(nn.Linear(12, 20))
    x = torch.randn(50, 12) + 3
    stats = gather_statistics(model, ["0"], [x])
    centred = gather_statistics(model, ["0"], [x - x.mean(0)])
    small = Int1(metric="activation", bias="corrected").compress_model(model, ["0"], stats)
    by_hand = Int1(metric="activation").compress_model(model, ["0"], centred)
    torch.testing.assert_close(small.weights["0"].dense(), by_hand.weights["0"].dense())


def test_a_large_ridge_turns_the_activation_metric_into_that_of_weights():
    W, stats = torch.randn(6, 11), random_stats(11)
    model = nn.Sequential(nn.Linear(11, 6))
    model[0].weight.data = W
    small = Int1(metric="activation", ridge=1e9).compress_model(model, ["0"], {"0": [stats]})
    torch.testing.assert_close(small.weights["0"].dense(), Int1().compress(W, None).dense(), rtol=1e-5, atol=1e-6)


def test_a_ridge_without_statistics_is_refused():
    with pytest.raises(ValueError, match=r"ridge = 2\.0 has no effect, because with these options 'int1'"):
        Int1(ridge=2.0)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_centred_and_damped_statistics_are_equal_for_moments_and_samples(ridge):
    X = torch.randn(40, 9) + 1
    exact = LayerStats(X.double().T @ X.double() / 40, X.double().mean(0)).centred().with_ridge(ridge)
    sampled = SampledStats(X).centred().with_ridge(ridge)
    centred = X.double() - X.double().mean(0)
    C = centred.T @ centred / 40
    torch.testing.assert_close(exact.damped(), C + max(ridge, 1e-6) * C.diagonal().mean() * torch.eye(9))
    for found, expected in ((sampled.damped(), exact.damped()), (sampled.mean, torch.zeros(9).double())):
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)


def test_options_of_later_versions_are_not_written_where_they_are_defaults():
    assert Int1().model_dump(mode="json") == {"method": "int1", "scale": "row", "metric": "weight"}
    assert Int1(bias="corrected").model_dump(mode="json")["bias"] == "corrected"


def test_without_statistics_of_a_mean_the_bias_stays():
    model = settled(mlp)
    x = images(3, 32, 32).images
    stats = gather_statistics(model, ["4"], [x])
    unknown = {"4": [LayerStats(stats["4"][0].second_moment)]}
    small = Int1(bias="corrected").compress_model(model, ["4"], unknown).model
    assert torch.equal(small[4].bias, model[4].bias)
