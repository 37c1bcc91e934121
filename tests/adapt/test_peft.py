"""Start values, outputs and gradients against those of Hugging Face's peft, which shares no code with this."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_lora import attached
from torch import Tensor, nn

from pipeline.adapt.contract import Draw
from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.adapt.inits.olora import Olora
from pipeline.adapt.inits.pissa import Pissa
from pipeline.adapt.methods.dora import Dora
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import copy_sharing_tensors, replace_weight, weight_matrix
from pipeline.compress.methods.no_compression import NoCompression

RANK = 3
OWN_NAMES = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_magnitude_vector": "magnitude"}


def mlp() -> nn.Module:
    return nn.Sequential(OrderedDict(fc1=nn.Linear(7, 6), act=nn.Tanh(), fc2=nn.Linear(6, 5, bias=False)))


def cnn() -> nn.Module:
    first, second = nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.Conv2d(6, 4, (3, 1), bias=False)
    return nn.Sequential(OrderedDict(conv1=first, act=nn.Tanh(), conv2=second))


MODELS = pytest.mark.parametrize(("build", "shape"), [(mlp, (4, 7)), (cnn, (4, 3, 9, 8))], ids=["linear", "conv"])


def with_peft(model: nn.Module, alpha: float, **options: Any) -> nn.Module:
    """A copy of the model as peft adapts it; factors are random unless an init is named."""
    names = [name for name, layer in model.named_modules() if hasattr(layer, "weight")]
    options = {"init_lora_weights": False, **options}
    copy = copy_sharing_tensors(model)
    for layer in names:  # peft changes weights in place
        replace_weight(copy, layer, weight_matrix(model.get_submodule(layer)).clone())
    return get_peft_model(copy, LoraConfig(r=RANK, lora_alpha=alpha, target_modules=names, **options))


def trained(peft_model: nn.Module) -> dict[str, nn.Parameter]:
    """What peft trains, by the names that it has here."""
    found = {}
    for name, parameter in peft_model.named_parameters():
        layer, _, kind = name.removeprefix("base_model.model.").partition(".")
        if parameter.requires_grad:
            found[f"{layer}.{OWN_NAMES[kind.partition('.')[0]]}"] = parameter
    return found


def as_here(name: str, tensor: Tensor) -> Tensor:
    """The factors of a convolution as matrices, a magnitude as a vector."""
    return tensor.detach().flatten() if name.endswith("magnitude") else tensor.detach().flatten(1)


def lane_of(peft_model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(as_here(name, tensor).clone()) for name, tensor in trained(peft_model).items()}


def step(parameters: Mapping[str, nn.Parameter], loss: Tensor) -> None:
    """One step of gradient descent, in place."""
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    with torch.no_grad():
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            assert gradient.any()
            parameter -= 0.1 * gradient


@pytest.mark.parametrize(
    ("adapter", "options"),
    [(Lora(), {}), (Lora(scale="alpha/sqrt(r)"), {"use_rslora": True}), (Dora(), {"use_dora": True})],
    ids=["lora", "rank-stabilised", "dora"],
)
@MODELS
def test_outputs_and_steps_are_those_of_peft(build, shape, adapter, options):
    model, x = build().double(), torch.randn(shape, dtype=torch.float64)
    peft_model = with_peft(model, 5.0, **options)
    lane = lane_of(peft_model)
    for _ in range(3):
        ours, theirs = attached(model, [lane], [5.0], adapter)(x), peft_model(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        step(lane, ours.square().mean())
        step(trained(peft_model), theirs.square().mean())
    for name, tensor in trained(peft_model).items():
        torch.testing.assert_close(lane[name].detach(), as_here(name, tensor), rtol=1e-8, atol=1e-8)


@MODELS
def test_doras_magnitudes_start_as_those_of_peft(build, shape):
    model = build().double()
    peft_model = with_peft(model, 5.0, use_dora=True)
    theirs = {name: as_here(name, tensor) for name, tensor in trained(peft_model).items()}
    layers = {name.partition(".")[0] for name in theirs}
    starts = {layer: Start(theirs[f"{layer}.lora_A"], theirs[f"{layer}.lora_B"]) for layer in layers}
    begun = Dora().begin(CompressedModel(model, {}, model), starts, Draw(5.0))
    assert begun.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(begun[name], tensor)


@pytest.mark.parametrize(
    ("init", "alpha"), [(Pissa(), RANK), (Pissa(), 8), (Olora(), RANK)], ids=["pissa", "pissa, scaled", "olora"]
)
def test_starts_that_move_the_base_are_those_of_peft(init: Init, alpha: float):
    # peft's olora takes s U R from the weight, so that the two agree at s = 1.
    model, x = mlp(), torch.randn(4, 7)
    peft_model = with_peft(model, alpha, init_lora_weights=init.name)
    theirs, s = trained(peft_model), alpha / RANK
    bases, starts = copy_sharing_tensors(model), {}
    for name in ("fc1", "fc2"):
        weight = weight_matrix(model.get_submodule(name))
        dense = NoCompression().compress(weight, None)
        start = init.start(
            AdaptedLayer(weight, dense, lambda W: NoCompression().compress(W, None)), RANK, torch.Generator()
        )
        A, B = start.at_scale(s)
        torch.testing.assert_close(B @ A, (theirs[f"{name}.lora_B"] @ theirs[f"{name}.lora_A"]).detach())
        torch.testing.assert_close(A.T @ A, (theirs[f"{name}.lora_A"].T @ theirs[f"{name}.lora_A"]).detach())
        base = peft_model.get_parameter(f"base_model.model.{name}.base_layer.weight").detach()
        torch.testing.assert_close(start.base.dense(), base, rtol=1e-4, atol=1e-5)
        replace_weight(bases, name, start.base.dense())
        starts[name] = start
    lane = Lora().begin(CompressedModel(bases, {}, model), starts, Draw(alpha))
    ours = attached(bases, [lane], [alpha], Lora())(x)
    torch.testing.assert_close(ours, peft_model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, model(x), rtol=1e-4, atol=1e-5)
