import pytest
import torch
from torch import Tensor, nn

from pipeline.adapt.lanes import Adapted, Lanes
from pipeline.adapt.low_rank import Factors, adapted_linear, add_to_shared
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape, weight_matrix

ROWS, INNER, OUT = 4, 5, 3
STACKS = {
    "one lane": [(1, 2)],
    "one stack": [(3, 2)],
    "several ranks": [(2, 1), (1, 3), (3, 2)],
}
"""Lanes and rank of each stack."""


def factors(shape: list[tuple[int, int]]) -> list[Factors]:
    def trained(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, requires_grad=True)

    return [
        (trained(t, r, INNER), trained(t, OUT, r), 0.5 + torch.rand(t, 1, 1, dtype=torch.float64)) for t, r in shape
    ]


def by_lane(stacks: list[Factors]) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [lane for stack in stacks for lane in zip(*stack, strict=True)]


def trained_of(stacks: list[Factors]) -> list[Tensor]:
    return [tensor for A, B, _ in stacks for tensor in (A, B)]


def assert_gradients_agree(out: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    # A gradient that lies in memory by columns, and one that is a single number spread out.
    for d_out in (torch.randn(out.shape[::-1], dtype=out.dtype).T, torch.ones((), dtype=out.dtype).expand(out.shape)):
        own = torch.autograd.grad(out, inputs, d_out, retain_graph=True)
        its = torch.autograd.grad(expected, inputs, d_out, retain_graph=True)
        for gradient, plain in zip(own, its, strict=True):
            torch.testing.assert_close(gradient, plain, rtol=1e-12, atol=1e-12)
            assert plain.any()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", STACKS.values(), ids=STACKS)
def test_outputs_and_gradients_of_lanes_with_inputs_of_their_own_are_the_plain_formulas(shape, bias):
    stacks, weight = factors(shape), torch.randn(OUT, INNER, dtype=torch.float64)
    b = torch.randn(OUT, dtype=torch.float64) if bias else None
    lanes = by_lane(stacks)
    x = torch.randn(INNER, len(lanes) * ROWS, dtype=torch.float64).T.requires_grad_()
    out = adapted_linear(x, weight, b, stacks)
    expected = torch.cat(
        [
            own @ weight.T + (0 if b is None else b) + s * (own @ A.T) @ B.T
            for own, (A, B, s) in zip(x.split(ROWS), lanes, strict=True)
        ]
    )
    assert_gradients_agree(out, expected, [x, *trained_of(stacks)])


@pytest.mark.parametrize("shape", STACKS.values(), ids=STACKS)
def test_outputs_and_gradients_of_lanes_that_share_an_input_are_the_plain_formulas(shape):
    stacks = factors(shape)
    x, y = torch.randn(ROWS, INNER, dtype=torch.float64), torch.randn(OUT, ROWS, dtype=torch.float64).T
    before = x.clone(), y.clone()
    out = add_to_shared(x, y, stacks)
    expected = torch.cat([y + s * (x @ A.T) @ B.T for A, B, s in by_lane(stacks)])
    assert_gradients_agree(out, expected, trained_of(stacks))
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_gradients_are_the_slopes_of_the_outputs():
    stacks = factors(STACKS["several ranks"])
    x, y, weight = (torch.randn(size, dtype=torch.float64) for size in ((6 * 2, INNER), (2, OUT), (OUT, INNER)))
    own = [x.requires_grad_(), *trained_of(stacks)]

    def grouped(trained: tuple[Tensor, ...]) -> list[Factors]:
        return [(A, B, s) for A, B, (_, _, s) in zip(trained[::2], trained[1::2], stacks, strict=True)]

    assert torch.autograd.gradcheck(lambda x, *t: adapted_linear(x, weight, None, grouped(t)), own)
    few = x.detach()[:2]
    assert torch.autograd.gradcheck(lambda *t: add_to_shared(few, y, grouped(t)), own[1:])


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_in_bfloat16_outputs_and_gradients_are_near_those_in_float32(shared):
    layer = Lora().layer(nn.Linear(64, 32), {"lora_A", "lora_B"})
    stacks, trained = [], []
    for lanes, rank in ((2, 2), (1, 4)):
        own = {"0.lora_A": torch.randn(lanes, rank, 64) / 8, "0.lora_B": torch.randn(lanes, 32, rank)}
        own = {name: tensor.requires_grad_() for name, tensor in own.items()}
        trained += own.values()
        stacks += [(own, [2.0] * lanes)]
    x = torch.randn(10 if shared else 30, 64)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer.frozen(x) if shared else None
            out = layer(x, y, Lanes(stacks).layers["0"])
        assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
        results.append([out.float(), *torch.autograd.grad(out.float().square().sum(), trained)])
    for exact, near in zip(*results, strict=True):
        assert near.dtype == torch.float32
        assert 0 < (near - exact).norm() < 0.02 * exact.norm()


LAYERS = {
    "linear on tokens": (nn.Linear(6, 4), (2, 3, 6)),
    "convolution": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 6, 6)),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2, padding=1), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("bias", [False, True], ids=["", "biases"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize(("base", "shape"), LAYERS.values(), ids=LAYERS)
def test_lanes_of_several_stacks_are_each_the_dense_layer_and_have_its_gradients(base, shape, shared, bias):
    base = copy_sharing_tensors(base.double())
    out, inner = matrix_shape(base)
    stacks, scale = [], Lora(bias=bias)
    for t, r in ((2, 1), (1, 3), (1, 2)):
        sizes = {"lora_A": (t, r, inner), "lora_B": (t, out, r), **({"bias": (t, out)} if bias else {})}
        own = {f"0.{name}": torch.randn(size, dtype=torch.float64, requires_grad=True) for name, size in sizes.items()}
        stacks.append((own, [1.0 + place + r for place in range(t)]))
    lanes, layer = Lanes(stacks), scale.layer(base, {name.partition(".")[2] for name in stacks[0][0]})
    trained = [tensor for own, _ in stacks for tensor in own.values()]
    images = [torch.randn(shape, dtype=torch.float64)] * 4 if shared else list(torch.randn(4, *shape).double())
    y = layer.frozen(images[0]) if shared else None
    together = layer(images[0] if shared else torch.cat(images), y, lanes.layers["0"])
    expected = []
    for own, alphas in stacks:
        for place, alpha in enumerate(alphas):
            A, B = own["0.lora_A"][place], own["0.lora_B"][place]
            weight = (weight_matrix(base) + alpha / len(A) * B @ A).view_as(base.weight)
            changed = {"weight": weight, **({"bias": own["0.bias"][place]} if bias else {})}
            expected.append(torch.func.functional_call(base, changed, (images[len(expected)],)))
    torch.testing.assert_close(together, torch.cat(expected), rtol=1e-11, atol=1e-11)
    d = torch.randn_like(together)
    for gradient, plain in zip(
        torch.autograd.grad(together, trained, d), torch.autograd.grad(torch.cat(expected), trained, d), strict=True
    ):
        torch.testing.assert_close(gradient, plain, rtol=1e-10, atol=1e-10)
    if not shared:
        torch.testing.assert_close(Adapted(layer, lanes.layers["0"])(torch.cat(images)), together, rtol=0, atol=0)
