import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.adapt.contract import Draw, stored_model
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.methods.dora import Dora
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.compress.methods.int1 import Int1


def rounded(parameters, kind):
    return Lora(factors=kind).rounded(parameters)


KINDS = pytest.mark.parametrize("kind", ["float32", "float16", "int8"])


def lane(seed: int = 0, out: int = 7, rank: int = 5, inner: int = 11, size: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return size * torch.randn(shape, generator=generator)

    return {
        "a.fc.lora_A": drawn(rank, inner),
        "a.fc.lora_B": drawn(out, rank),
        "a.fc.bias": drawn(out),
        "a.fc.magnitude": drawn(out),
    }


def test_in_half_precision_a_number_is_off_by_half_a_unit_in_its_eleventh_bit():
    own = lane()
    for name in ("a.fc.lora_A", "a.fc.lora_B"):
        near = rounded(own, "float16")[name]
        assert near.dtype == torch.float32
        assert not torch.equal(near, own[name])
        assert ((near - own[name]).abs() <= 2**-11 * own[name].abs() + 2**-25).all()


def test_in_8_bits_a_number_is_off_by_half_a_step_of_its_own_direction():
    own = lane()
    own["a.fc.lora_A"][2] *= 1e4
    own["a.fc.lora_B"][:, 3] *= 1e-4
    near = rounded(own, "int8")
    for name, axis in (("a.fc.lora_A", 1), ("a.fc.lora_B", 0)):
        step = own[name].abs().amax(axis, keepdim=True) / 127
        assert ((near[name] - own[name]).abs() <= 0.5001 * step).all()
        assert ((near[name] - own[name]).abs() > 0.3 * step).any()


def test_what_is_no_factor_and_what_stays_in_float32_is_the_same_tensor():
    own = lane()
    assert rounded(own, "float32") is own
    for kind in ("float16", "int8"):
        assert rounded(own, kind)["a.fc.bias"] is own["a.fc.bias"]
        assert rounded(own, kind)["a.fc.magnitude"] is own["a.fc.magnitude"]


@KINDS
@given(seed=st.integers(0, 2**31), size=st.floats(1e-3, 1e3))
def test_a_file_gives_the_rounded_tensors_and_storing_them_again_changes_nothing(kind, seed, size):
    own = lane(seed, size=size)
    once = rounded(own, kind)
    adapter = Lora(factors=kind)
    tensors = adapter.to_tensors(own)
    back = adapter.from_tensors(tensors)
    again, stored_again = rounded(once, kind), adapter.to_tensors(back)
    assert own.keys() == once.keys() == back.keys()
    assert tensors.keys() == stored_again.keys()
    assert all(torch.equal(back[name], once[name]) for name in own)
    assert all(torch.equal(again[name], once[name]) for name in own)
    assert all(torch.equal(stored_again[name], tensor) for name, tensor in tensors.items())


def test_no_scale_of_8_bits_changes_when_it_is_stored_again():
    mantissas = torch.arange(2**23, 2**24, 97).float() / 2**23
    once = rounded({"fc.lora_A": mantissas[:, None]}, "int8")
    torch.testing.assert_close(once["fc.lora_A"], mantissas[:, None], rtol=2**-23, atol=0)
    assert torch.equal(rounded(once, "int8")["fc.lora_A"], once["fc.lora_A"])


def test_a_direction_of_zeros_stays_zero():
    own = {"fc.lora_A": torch.randn(3, 4), "fc.lora_B": torch.zeros(5, 3)}
    for kind in ("float16", "int8"):
        assert not rounded(own, kind)["fc.lora_B"].any()
        adapter = Lora(factors=kind)
        assert not adapter.from_tensors(adapter.to_tensors(own))["fc.lora_B"].any()


@KINDS
def test_stacks_of_lanes_are_rounded_as_each_lane_is(kind):
    lanes = [lane(seed) for seed in range(3)]
    stacked = {name: torch.stack([own[name] for own in lanes]) for name in lanes[0]}
    together = rounded(stacked, kind)
    for place, own in enumerate(lanes):
        alone = rounded(own, kind)
        assert all(torch.equal(together[name][place], alone[name]) for name in own)


@pytest.mark.parametrize("adapter", [Lora, Dora])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("float32", 32 * 5 * 18),
        ("float16", 16 * 5 * 18),
        ("int8", 8 * 5 * 18 + 2 * 32 * 5),
        ("int4", 8 * 5 * (6 + 4) + 2 * 32 * 5),
        ("int2", 8 * 5 * (3 + 2) + 2 * 32 * 5),
        ("int1", 8 * 5 * (2 + 1) + 2 * 32 * 5),
    ],
)
def test_the_bits_that_are_counted_are_those_of_the_file(adapter, kind, bits):
    model = copy_sharing_tensors(nn.Sequential(nn.Linear(11, 7)))
    compressed = Int1().compress_model(model, ["0"], {})
    own = adapter(factors=kind)
    begun = own.begin(compressed, {"0": Start(torch.randn(5, 11), torch.randn(7, 5))}, Draw(1.0))
    more = 32 * 7 if adapter is Dora else 0
    assert stored_model(own, compressed, begun).adapter_bits == {"0": bits + more}
    assert 8 * sum(tensor.nbytes for tensor in own.to_tensors(begun).values()) == bits + more


def test_the_adapter_rounds_and_packs_with_its_own_factor_type():
    own, adapter = lane(), Lora(factors="int8")
    near, tensors = rounded(own, "int8"), adapter.to_tensors(own)
    assert tensors["a.fc.lora_A"].dtype == torch.int8
    for back in (adapter.rounded(own), adapter.from_tensors(tensors)):
        assert all(torch.equal(back[name], near[name]) for name in own)
