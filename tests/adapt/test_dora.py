import pytest
import torch
from test_lora import LAYERS, attached, lanes_of
from torch import nn

from pipeline.adapt.contract import Draw
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.methods.dora import Dora
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import matrix_shape, weight_matrix

EACH_LAYER = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)


@EACH_LAYER
def test_dora_starts_as_lora_does(layer, shape):
    model = nn.Sequential(layer).double()
    compressed = CompressedModel(model, {}, model)
    out, inner = matrix_shape(layer)
    start = {"0": Start(torch.randn(2, inner).double(), torch.randn(out, 2).double(), residual=True)}
    x = torch.randn(shape, dtype=torch.float64)
    outputs = [
        attached(model, [adapter.begin(compressed, start, Draw(4.0))], [4.0], adapter)(x)
        for adapter in (Lora(), Dora(), Dora(scales=True))
    ]
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-11, atol=1e-11)


def test_a_magnitude_is_the_length_of_its_row_whatever_the_factors_become():
    model = nn.Sequential(nn.Linear(10, 6, bias=False)).double()
    (lane,) = lanes_of(model, Dora(), [4.0])
    rows = attached(model, [lane], [4.0], Dora())(torch.eye(10, dtype=torch.float64)).T
    torch.testing.assert_close(rows.norm(dim=1), lane["0.magnitude"].abs())


def test_the_norm_has_no_gradient_as_published():
    layer = nn.Linear(10, 6, bias=False).double()
    model = nn.Sequential(layer)
    (lane,) = lanes_of(model, Dora(), [4.0])
    A, B, m = (lane[f"0.{kind}"].clone().requires_grad_() for kind in ("lora_A", "lora_B", "magnitude"))
    x = torch.randn(5, 10, dtype=torch.float64)
    own = attached(model, [{"0.lora_A": A, "0.lora_B": B, "0.magnitude": m}], [4.0], Dora())
    weight = weight_matrix(layer) + 2 * B @ A
    plain = x @ (m[:, None] * weight / weight.detach().norm(dim=1, keepdim=True)).T
    d = torch.randn_like(plain)
    for parameter, gradient in zip((A, B, m), torch.autograd.grad(plain, (A, B, m), d), strict=True):
        (own_gradient,) = torch.autograd.grad(own(x), parameter, d)
        torch.testing.assert_close(own_gradient, gradient, rtol=1e-11, atol=1e-11)


def test_a_row_of_zeros_gives_zeros_and_can_still_learn():
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    model[0].weight.data[1] = 0
    start = {"0": Start(torch.randn(2, 4), torch.zeros(3, 2))}
    lane = Dora().begin(CompressedModel(model, {}, model), start, Draw(2.0))
    held = {name: nn.Parameter(tensor) for name, tensor in lane.items()}
    out = attached(model, [held], [2.0], Dora())(torch.randn(5, 4))
    assert not out[:, 1].any()
    gradients = torch.autograd.grad(out.sum(), list(held.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[1][1].any()


def test_a_magnitude_costs_one_multiplication_an_output():
    assert Dora().macs((6, 10), 2) == Lora().macs((6, 10), 2) + 6
