import pytest
import torch
from methods import images, resnet, settled
from torch import nn

from pipeline.compress.layer_statistics import Statistics, calibration
from pipeline.compress.methods.intn import IntN
from pipeline.compress.prefix_statistics import PrefixStatistics, from_images
from pipeline.objective import compression_stats as module
from pipeline.objective.compression_stats import PROBES, compression_stats, prefix_bytes, prefix_start

METHOD = IntN(bits=2, rounding="gptq", prefix=64)


class Untraceable(nn.Module):
    """A model that decides by values what it computes, with two layers behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).mean((2, 3))
        return self.second(x if float(x.sum()) > 0 else x.abs())


def calls_of_first_layer(model: nn.Module) -> list[int]:
    calls = list[int]()
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


def last_layers(model: nn.Module, count: int) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)][-count:]


@pytest.mark.parametrize("count", [1, 4])
def test_layers_before_the_first_target_run_once_and_codes_are_those_of_passes_over_the_whole_model(count):
    model, train = settled(resnet).requires_grad_(False), images(3, 32, 32, count=64)
    names = last_layers(model, count)
    whole = PrefixStatistics(model, names, from_images([x for x, _ in calibration(train, 64)]))
    expected = METHOD.compress_model(model, names, whole)
    calls = calls_of_first_layer(model)
    found = METHOD.compress_model(model, names, compression_stats(METHOD, names, Statistics(model, train), train))
    assert (sorted(calls)[-2:], sum(calls) < 64 + 8 * PROBES) == ([32, 32], True)  # all once, and what proves the cut
    for name in names:
        assert (found.weights[name].dense() == expected.weights[name].dense()).float().mean() > 0.99


@pytest.mark.parametrize("limit", [0, 2**30])
def test_what_memory_does_not_hold_and_a_model_without_a_cut_are_gathered_from_the_images(limit, monkeypatch):
    monkeypatch.setattr(module, "HELD", limit)
    model, train = (settled(resnet) if not limit else Untraceable()).requires_grad_(False), images(3, 32, 32, count=64)
    names = last_layers(model, 2)
    whole = PrefixStatistics(model, names, from_images([x for x, _ in calibration(train, 64)]))
    found = compression_stats(METHOD, names, Statistics(model, train), train)
    for name in names:
        assert torch.equal(found[name][0].second_moment, whole[name][0].second_moment)


@pytest.mark.parametrize("limit", [0, 2**30])
def test_the_bytes_of_what_passes_begin_with_are_known_before_they_begin(limit, monkeypatch):
    monkeypatch.setattr(module, "HELD", limit)
    model, train = settled(resnet).requires_grad_(False), images(3, 32, 32, count=64)
    names = last_layers(model, 1)
    held = sum(tensor.nbytes for batch in prefix_start(model, names, train, 50).batches for tensor in batch)
    assert prefix_bytes(model, names, train, 50) == held
    assert (held == 50 * 3 * 32 * 32 * 4) == (limit == 0)
