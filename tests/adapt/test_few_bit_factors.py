"""Factors in 4, 2 and 1 bit: rounded in training as in the file, with gradients that pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.adapt.contract import Draw
from pipeline.adapt.factor_rounding import DIRECTION_AXIS, pack_factor, rounded_factor, step_of, unpack_factor
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lanes import Lanes, Stack, attach
from pipeline.adapt.methods.dora import Dora
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.compress.methods.int1 import Int1

BITS = {"int4": 4, "int2": 2, "int1": 1}
KINDS = pytest.mark.parametrize("kind", BITS)
FACTORS = pytest.mark.parametrize("factor", DIRECTION_AXIS)


def begun(kind: str, adapter: type[Lora] = Lora, rank: int = 3) -> tuple[Lora, nn.Module, dict[str, Tensor]]:
    model = copy_sharing_tensors(nn.Sequential(nn.Linear(11, 7)))
    compressed = Int1().compress_model(model, ["0"], {})
    own = adapter(factors=kind)
    start = Start(torch.randn(rank, 11), torch.randn(7, rank))
    return own, compressed.model, own.begin(compressed, {"0": start}, Draw(2.0))


@KINDS
@FACTORS
@settings(max_examples=25)
@given(rank=st.integers(1, 5), count=st.integers(1, 20), seed=st.integers(0, 999), size=st.floats(1e-3, 1e3))
def test_packed_factors_come_back_as_the_layer_computes_with_them(kind, factor, rank, count, seed, size):
    axis, generator = DIRECTION_AXIS[factor], torch.Generator().manual_seed(seed)
    tensor = size * torch.randn((rank, count) if axis == -1 else (count, rank), generator=generator)
    step = step_of(tensor, axis, BITS[kind])
    packed = pack_factor(tensor, step, axis, BITS[kind])
    assert packed.shape == (rank, -(-count * BITS[kind] // 8))
    back = unpack_factor(packed, step, axis, BITS[kind], count)
    assert torch.equal(back, rounded_factor(tensor, step, axis, BITS[kind]))
    assert torch.equal(pack_factor(back, step, axis, BITS[kind]), packed)


@pytest.mark.parametrize(("kind", "lost"), [("int1", 0.38), ("int2", 0.13), ("int4", 0.0125)])
def test_normal_factors_lose_as_little_as_the_best_even_grid_does(kind, lost):
    A = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))
    rounded = rounded_factor(A, step_of(A, -1, BITS[kind]), -1, BITS[kind])
    assert 0.9 * lost < float((rounded - A).square().mean()) < lost


@KINDS
def test_a_direction_of_zeros_stays_zero_and_gets_a_gradient(kind):
    B = torch.zeros(6, 3, requires_grad=True)
    step = step_of(B, -2, BITS[kind])
    rounded = rounded_factor(B, step, -2, BITS[kind])
    assert not rounded.any()
    rounded.sum().backward()
    assert torch.equal(B.grad, torch.ones(6, 3))
    assert not unpack_factor(pack_factor(B.detach(), step, -2, BITS[kind]), step, -2, BITS[kind], 6).any()


@KINDS
@pytest.mark.parametrize("adapter", [Lora, Dora])
def test_a_layer_computes_with_the_rounded_factors_and_latent_ones_get_their_gradients(kind, adapter):
    own, model, parameters = begun(kind, adapter)
    lane = {name: tensor.clone().requires_grad_("scale" not in name)[None] for name, tensor in parameters.items()}
    x = torch.randn(5, 11)

    def output(tensors):
        copy = copy_sharing_tensors(model)
        attach(copy, own, Lanes([(tensors, [2.0])]))
        return copy(x)

    stored = own.rounded(parameters)
    assert not torch.equal(stored["0.lora_A"], parameters["0.lora_A"])
    trained = own.layer(model[0], [name.removeprefix("0.") for name in parameters])
    stack = Stack({name.removeprefix("0."): tensor for name, tensor in lane.items()}, torch.tensor([2.0]))
    by_layer = trained(x, None, [stack])
    torch.testing.assert_close(by_layer, output({name: tensor[None] for name, tensor in stored.items()}))
    gradients = torch.autograd.grad(by_layer.square().sum(), [lane["0.lora_A"], lane["0.lora_B"]])
    assert all(gradient.any() for gradient in gradients)


@KINDS
def test_scales_follow_the_factors_and_are_not_trained(kind):
    own, _, parameters = begun(kind)
    stacked = {name: torch.stack([tensor, 2 * tensor]) for name, tensor in parameters.items()}
    expected = step_of(3 * stacked["0.lora_A"], -1, BITS[kind])
    stacked["0.lora_A"] *= 3
    own.after_step({}, stacked, 1, 10)
    torch.testing.assert_close(stacked["0.lora_A_scale"], expected)
    assert [name for name in parameters if own.is_frozen(name)] == ["0.lora_A_scale", "0.lora_B_scale"]


@KINDS
def test_lanes_are_rounded_and_packed_as_each_lane_is(kind):
    lanes = [begun(kind)[2] for _ in range(3)]
    own = Lora(factors=kind)
    stacked = {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}
    together, packed = own.rounded(stacked, lanes=1), own.to_tensors(stacked)
    for place, lane in enumerate(lanes):
        alone, tensors = own.rounded(lane), own.to_tensors(lane)
        assert all(torch.equal(together[name][place], alone[name]) for name in lane)
        assert all(torch.equal(packed[name][place], tensors[name]) for name in tensors)
        again = own.rounded(alone)
        assert all(torch.equal(again[name], alone[name]) for name in lane)


@KINDS
@pytest.mark.parametrize("adapter", [Lora, Dora])
def test_merging_adds_the_rounded_factors(kind, adapter):
    own, model, parameters = begun(kind, adapter)
    of_layer = {name.removeprefix("0."): tensor for name, tensor in own.rounded(parameters).items()}
    x = torch.randn(4, 11)
    weight, bias = model[0].weight.detach(), model[0].bias
    expected = own.loaded_layer(copy_sharing_tensors(model)[0], of_layer, 2.0)(x)
    torch.testing.assert_close(x @ own.merged(weight, of_layer, 2.0).T + bias, expected, rtol=1e-4, atol=1e-4)
