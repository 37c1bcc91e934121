"""Codes in training: what is projected is what is stored, and gradients are those of the rounded weight."""

from dataclasses import dataclass

import pytest
import torch
from methods import label, statistics, variants
from torch import Tensor, nn

from pipeline.compress.contract import LayerCompression
from pipeline.compress.latents import is_fixed
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS

LAYERS = {
    "linear": (nn.Linear(33, 7), (33,)),
    "one row": (nn.Linear(21, 1), (21,)),
    "convolution": (nn.Conv2d(3, 10, (3, 5), stride=2), (3, 9, 9)),
    "depthwise": (nn.Conv2d(5, 5, 3, groups=5), (5, 6, 6)),
}
METHODS = [method for method in variants(COMPRESSIONS) if isinstance(method, LayerCompression)]


def weight_of(method: LayerCompression, layer: nn.Module, shape: tuple[int, ...]) -> tuple[CompressedWeight, Tensor]:
    model = nn.Sequential(layer, nn.Flatten())
    compressed = method.compress_model(model, ["0"], statistics(model, ["0"], *shape))
    return compressed.weights["0"], layer.weight.detach().flatten(1)


def moved(tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The tensors after some training."""
    generator = torch.Generator().manual_seed(seed)
    return {
        kind: t if is_fixed(kind) else t + 0.3 * t.std(correction=0) * torch.randn(t.shape, generator=generator)
        for kind, t in tensors.items()
    }


@pytest.mark.parametrize("method", METHODS, ids=label)
@pytest.mark.parametrize("layer", LAYERS)
def test_codes_begin_as_they_were_rounded_and_a_trained_weight_is_its_projection(method, layer):
    weight, dense = weight_of(method, *LAYERS[layer])
    tensors = weight.to_trainable(dense)
    torch.testing.assert_close(weight.project(tensors), weight.dense(), rtol=1e-4, atol=1e-5)
    for trained in (tensors, moved(tensors)):
        stored = weight.with_trained(trained)
        assert torch.equal(stored.dense(), weight.project(trained))
        assert stored.dense().shape == dense.shape
        assert {k: (t.shape, t.dtype) for k, t in stored.to_tensors().items()} == {
            k: (t.shape, t.dtype) for k, t in weight.to_tensors().items()
        }


@pytest.mark.parametrize("method", METHODS, ids=label)
@pytest.mark.parametrize("layer", LAYERS)
def test_lanes_project_as_each_lane_alone(method, layer):
    weight, dense = weight_of(method, *LAYERS[layer])
    lanes = [moved(weight.to_trainable(dense), seed) for seed in range(3)]
    stacked = {kind: torch.stack([lane[kind] for lane in lanes]) for kind in lanes[0]}
    together = torch.vmap(weight.project)(stacked)
    assert torch.equal(together, torch.stack([weight.project(lane) for lane in lanes]))
    codes = torch.vmap(weight.latent_codes)(stacked)
    for kind, (values, middles) in codes.items():
        assert values.shape == middles.shape == stacked[kind].shape


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_every_trained_tensor_gets_a_finite_gradient(method):
    weight, dense = weight_of(method, *LAYERS["linear"])
    tensors = moved(weight.to_trainable(dense))
    trained = {kind: t.clone().requires_grad_() for kind, t in tensors.items() if not is_fixed(kind)}
    loss = (weight.project({**tensors, **trained}) - torch.ones_like(dense)).square().sum()
    for kind, gradient in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
        assert gradient.isfinite().all(), kind
        assert gradient.any(), kind


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_a_latent_weight_in_the_middle_of_its_code_keeps_it(method):
    weight, dense = weight_of(method, *LAYERS["linear"])
    tensors = moved(weight.to_trainable(dense))
    codes = weight.latent_codes(tensors)
    again = weight.latent_codes({**tensors, **{kind: middle for kind, (_, middle) in codes.items()}})
    for kind, (values, _) in codes.items():
        assert torch.equal(values, again[kind][0])


@pytest.mark.parametrize("name", ["factors", "dense", "latent_codes", "packings"])
def test_a_weight_class_whose_field_is_called_as_a_method_of_the_contract_is_refused(name):
    with pytest.raises(TypeError, match=rf"Own has a field '{name}', .* another name"):
        type("Own", (CompressedWeight,), {"__annotations__": {name: Tensor}})


def test_a_weight_class_may_have_fields_named_codes_and_shape():
    @dataclass(frozen=True)
    class Own(CompressedWeight):
        codes: Tensor
        coded: bool
        trainable: bool
        shape: tuple[int, int]

    assert Own(torch.zeros(2, 3), True, False, (2, 3)).shape == (2, 3)
