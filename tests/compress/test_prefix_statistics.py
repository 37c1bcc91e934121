import pytest
import torch
from methods import mlp, settled
from torch import nn
from torch.nn import functional as F

from pipeline.compress.by_layer import by_layer
from pipeline.compress.contract import LayerStats
from pipeline.compress.layer_statistics import gather_statistics
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.prefix_statistics import LEAST_DAMPING, PrefixStatistics, PrefixStats, from_images
from pipeline.errors import SpecError


class Branches(nn.Module):
    """Two layers with the same input, called against the order of their names, and a head behind both."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early, self.head = nn.Linear(10, 8), nn.Linear(10, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        return self.head(F.relu(self.early(x)) + F.relu(self.late(x)))


class Repeated(nn.Module):
    """A layer that is called with the input of another one, and again with some of it, which was changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.head = nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        y = self.once(x) + self.twice(x)
        x += 5
        return self.head(y.mean(1) + self.twice(x[:, :2]).mean(1))


class Looping(nn.Module):
    """A layer that is called once more for images of a large sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return x if x.sum() < 0 else self.layer(x)


def inputs(count: int = 96) -> torch.Tensor:
    return torch.randn(count, 10) @ torch.randn(10, 10) + 0.5


NAMES = ["late", "early", "head"]


def test_layers_come_in_the_order_of_their_calls():
    assert PrefixStatistics(Branches(), NAMES, from_images([inputs()])).order() == ["early", "late", "head"]


def test_behind_an_uncompressed_prefix_they_are_the_moments_of_the_model_and_leave_the_weight():
    model, x = Branches().requires_grad_(False), inputs()
    plain, found = (
        gather_statistics(model, NAMES, x.split(32)),
        PrefixStatistics(model, NAMES, from_images(x.split(32))),
    )
    for name in NAMES:
        its = found[name][0]
        torch.testing.assert_close(its.second_moment, plain[name][0].second_moment, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(its.mean, plain[name][0].mean, rtol=1e-5, atol=1e-5)
        W = model.get_submodule(name).weight
        torch.testing.assert_close(its.target(W), W, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("least", [2**17, 0])
def test_a_layer_that_is_called_twice_has_the_moments_of_both_calls(least, monkeypatch):
    monkeypatch.setattr("pipeline.compress.prefix_statistics.LEAST_VECTORS", least)
    model, x = Repeated().requires_grad_(False), torch.randn(4096, 6, 10) + 0.5
    names, limits = ["head", "twice", "once"], {"rtol": 1e-4, "atol": 1e-4} if least else {"rtol": 0.2, "atol": 0.2}
    plain, found = gather_statistics(model, names, [x]), PrefixStatistics(model, names, from_images([x]))
    assert found.order() == ["once", "twice", "head"]
    for name in names:
        torch.testing.assert_close(found[name][0].second_moment, plain[name][0].second_moment, **limits)
        torch.testing.assert_close(found[name][0].cross, found[name][0].second_moment)
        torch.testing.assert_close(found[name][0].mean, plain[name][0].mean, **limits)


def test_a_layer_that_is_called_more_often_for_some_images_is_refused_by_its_name():
    model = Looping().requires_grad_(False)
    model.layer.weight.copy_(torch.eye(10))
    model.layer.bias.zero_()
    stats = PrefixStatistics(model, ["layer"], from_images([torch.ones(2, 10), -torch.ones(2, 10)]))
    with pytest.raises(SpecError, match=r"'layer'.*2 times for the first image, and 1 times for others; leave prefix"):
        stats["layer"]


def test_each_layer_sees_the_inputs_that_the_compressed_layers_before_it_give(monkeypatch):
    model, x = Branches().requires_grad_(False), inputs()
    seen = {}
    compress = IntN.compress
    monkeypatch.setattr(
        IntN, "compress", lambda self, W, stats: seen.setdefault(len(W), (W, stats)) and compress(self, W, stats)
    )
    small = IntN(bits=2, prefix=96).compress_model(model, NAMES, PrefixStatistics(model, NAMES, from_images([x])))
    assert list(small.weights) == NAMES
    with torch.no_grad():
        X, Y = (F.relu(F.relu(m.early(F.relu(x)))) + F.relu(m.late(F.relu(x))) for m in (small.model, model))
    X, Y = X.double(), Y.double()
    target, stats = seen[4]
    torch.testing.assert_close(stats.second_moment, X.T @ X / 96, rtol=1e-4, atol=1e-5)
    C, W = X.T @ X / 96, model.head.weight.double()
    ridge = LEAST_DAMPING * C.diagonal().mean() * torch.eye(8, dtype=torch.float64)
    by_hand = (W @ (Y.T @ X / 96) + W @ ridge) @ torch.linalg.inv(C + ridge)
    torch.testing.assert_close(target.double(), by_hand, rtol=1e-3, atol=1e-4)


def test_two_layers_with_one_input_share_a_pass(monkeypatch):
    model, passes = Branches().requires_grad_(False), []
    stats = PrefixStatistics(model, NAMES, from_images([inputs()])).behind(model)
    gather = PrefixStatistics._gather
    monkeypatch.setattr(PrefixStatistics, "_gather", lambda self, stage: passes.append(stage) or gather(self, stage))
    for name in stats.order():
        assert stats[name] is stats[name]
    assert passes == [["early", "late"], ["head"]]


@pytest.mark.parametrize("bias", ["kept", "corrected"])
def test_the_whole_model_comes_nearer_to_the_uncompressed_one(bias):
    torch.manual_seed(0)
    model, x = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(10, 10), nn.ReLU())]), inputs(200)
    model.requires_grad_(False)
    names = ["0", "2", "4", "6"]
    plain = IntN(bits=3, rounding="gptq", bias=bias)
    behind = plain.model_copy(update={"prefix": 200})
    errors = [
        float((method.compress_model(model, names, stats).model(x) - model(x)).square().mean())
        for method, stats in (
            (plain, gather_statistics(model, names, [x])),
            (behind, PrefixStatistics(model, names, from_images(x.split(50)))),
        )
    ]
    assert errors[1] < errors[0]


def test_a_corrected_bias_gives_the_mean_outputs_of_the_uncompressed_model_whatever_the_prefix_lost():
    model, x = settled(mlp).requires_grad_(False), torch.randn(64, 3, 32, 32)
    stats = PrefixStatistics(model, ["2", "4"], from_images(x.split(16)))
    small = Int1(bias="corrected", prefix=64).compress_model(model, ["2", "4"], stats).model
    torch.testing.assert_close(small(x).mean(0), model(x).mean(0), rtol=1e-3, atol=1e-4)


def test_centred_statistics_are_those_of_inputs_without_their_means():
    x, y = inputs().double(), inputs().double() + 1
    stats = PrefixStats(x.T @ x / 96, x.mean(0), cross=y.T @ x / 96, reference=y.mean(0)).centred()
    x, y = x - x.mean(0), y - y.mean(0)
    torch.testing.assert_close(stats.second_moment, x.T @ x / 96)
    torch.testing.assert_close(stats.cross, y.T @ x / 96)
    assert not stats.mean.any()
    assert not stats.reference_mean.any()


def test_many_vectors_are_sampled_in_pairs(monkeypatch):
    monkeypatch.setattr("pipeline.compress.prefix_statistics.LEAST_VECTORS", 0)
    layer = nn.Conv2d(1, 4, 3)
    model = nn.Sequential(layer).requires_grad_(False)
    its = PrefixStatistics(model, ["0"], from_images([torch.randn(8, 1, 20, 20)]))["0"][0]
    torch.testing.assert_close(its.cross, its.second_moment)
    assert isinstance(its, LayerStats)
    assert (its.second_moment.diagonal() - 1).abs().max() < 0.5


def test_a_layer_whose_own_compression_needs_no_statistics_is_compressed_before_those_that_do():
    model, x = Branches().requires_grad_(False), inputs()
    method = by_layer(IntN(bits=4, rounding="gptq", prefix=32), {"early": IntN(bits=2)})
    stats = PrefixStatistics(model, ["late", "head"], from_images(x.split(32)))
    compressed = method.compress_model(model, NAMES, stats)
    assert list(compressed.weights) == NAMES
    assert [compressed.weights[name].width for name in NAMES] == [4, 2, 4]
