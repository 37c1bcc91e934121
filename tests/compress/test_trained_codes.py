"""Codes in training: what is projected is what is stored, and gradients are those of the rounded weight."""

from dataclasses import dataclass

import pytest
import torch
from compressed_cases import LAYERS, compressed_layer, on_layers
from methods import each_label, label, variants
from torch import Tensor

from pipeline.compress.contract import LayerCompression
from pipeline.compress.latents import is_fixed
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS

METHODS = [method for method in variants(COMPRESSIONS) if isinstance(method, LayerCompression)]
EACH = pytest.mark.parametrize("method", METHODS, ids=label)
EACH_ON_LAYERS = pytest.mark.parametrize(("method", "layer"), on_layers(METHODS), ids=each_label)


def weight_of(method: LayerCompression, layer: str) -> tuple[CompressedWeight, Tensor]:
    return compressed_layer(layer, method), LAYERS[layer][0].weight.detach().flatten(1)


def moved(tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The tensors after some training."""
    generator = torch.Generator().manual_seed(seed)
    return {
        kind: t if is_fixed(kind) else t + 0.3 * t.std(correction=0) * torch.randn(t.shape, generator=generator)
        for kind, t in tensors.items()
    }


def lanes_of(
    method: LayerCompression, layer: str, count: int
) -> tuple[CompressedWeight, list[dict[str, Tensor]], dict[str, Tensor]]:
    """The weight, the tensors of some lanes of it, and these tensors stacked."""
    weight, dense = weight_of(method, layer)
    lanes = [moved(weight.to_trainable(dense), seed) for seed in range(count)]
    return weight, lanes, {kind: torch.stack([lane[kind] for lane in lanes]) for kind in lanes[0]}


@EACH_ON_LAYERS
def test_codes_begin_as_they_were_rounded_and_a_trained_weight_is_its_projection(method, layer):
    weight, dense = weight_of(method, layer)
    tensors = weight.to_trainable(dense)
    torch.testing.assert_close(weight.project(tensors), weight.dense(), rtol=1e-4, atol=1e-5)
    for trained in (tensors, moved(tensors)):
        stored = weight.with_trained(trained)
        assert torch.equal(stored.dense(), weight.project(trained))
        assert stored.dense().shape == dense.shape
        assert {k: (t.shape, t.dtype) for k, t in stored.to_tensors().items()} == {
            k: (t.shape, t.dtype) for k, t in weight.to_tensors().items()
        }


@EACH_ON_LAYERS
def test_lanes_project_as_each_lane_alone(method, layer):
    weight, lanes, stacked = lanes_of(method, layer, 3)
    together = torch.vmap(weight.project)(stacked)
    assert torch.equal(together, torch.stack([weight.project(lane) for lane in lanes]))
    codes = torch.vmap(weight.latent_codes)(stacked)
    for kind, (values, middles) in codes.items():
        assert values.shape == middles.shape == stacked[kind].shape


@EACH
def test_a_lane_that_diverged_leaves_the_others_as_they_are(method):
    weight, dense = weight_of(method, "linear")
    tensors = moved(weight.to_trainable(dense))
    diverged = {kind: t if is_fixed(kind) else torch.full_like(t, torch.nan) for kind, t in tensors.items()}
    stacked = {kind: torch.stack([t, diverged[kind]]) for kind, t in tensors.items()}
    for kind, renewed in torch.vmap(weight.refreshed)(stacked).items():
        assert torch.equal(renewed[0], weight.refreshed(tensors)[kind])
        stacked[kind] = renewed
    alone = weight.project({kind: t[0] for kind, t in stacked.items()})
    assert torch.equal(torch.vmap(weight.project)(stacked)[0], alone)


@EACH
def test_every_trained_tensor_gets_a_finite_gradient(method):
    weight, dense = weight_of(method, "linear")
    tensors = moved(weight.to_trainable(dense))
    trained = {kind: t.clone().requires_grad_() for kind, t in tensors.items() if not is_fixed(kind)}
    loss = (weight.project({**tensors, **trained}) - torch.ones_like(dense)).square().sum()
    for kind, gradient in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
        assert gradient.isfinite().all(), kind
        assert gradient.any(), kind


@EACH
def test_a_latent_weight_in_the_middle_of_its_code_keeps_it(method):
    weight, dense = weight_of(method, "linear")
    tensors = moved(weight.to_trainable(dense))
    codes = weight.latent_codes(tensors)
    again = weight.latent_codes({**tensors, **{kind: middle for kind, (_, middle) in codes.items()}})
    for kind, (values, _) in codes.items():
        assert torch.equal(values, again[kind][0])


@EACH_ON_LAYERS
def test_latents_in_their_middles_are_the_rounded_weight(method, layer):
    weight, _, stacked = lanes_of(method, layer, 2)
    middles = torch.vmap(weight.middles)(stacked)
    rounded = torch.vmap(weight.unrounded)({**stacked, **middles})
    torch.testing.assert_close(rounded, torch.vmap(weight.project)(stacked), rtol=1e-4, atol=1e-5)


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
