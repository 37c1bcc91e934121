"""Tensors as coded bytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.coded_tensors import CodedTensor, coded_tensor, decoded_tensor
from pipeline.compress.grouped_weight import GroupedWeight
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.packing import Packing, pack

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int8, torch.int32, torch.bool]


@given(st.sampled_from(TYPES), st.lists(st.integers(0, 9), max_size=3), st.integers(0, 99))
@settings(deadline=None)
def test_tensors_of_any_type_and_shape_come_back(dtype, shape, seed):
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)
    given_back = decoded_tensor(coded_tensor(tensor))
    assert given_back.dtype == dtype
    assert given_back.shape == tensor.shape
    assert given_back.reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


@given(st.integers(1, 8), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_packed_codes_come_back_in_the_same_bytes(width, rows, columns, groups, alike):
    codes = torch.randint(0, 1 if alike else 2**width, (groups, rows, columns), dtype=torch.uint8)
    packed = torch.stack([pack(group, width) for group in codes]).squeeze(0)
    for packing in (Packing(width), Packing(width, columns), Packing(width, 7), None):
        coded = coded_tensor(packed, packing)
        assert len(coded.data) <= packed.nbytes
        assert torch.equal(decoded_tensor(coded), packed)


def test_bytes_that_are_no_packed_codes_come_back_too():
    given = torch.zeros(1000, dtype=torch.uint8)
    given[-1] = 128  # behind the last of 2,666 codes of 3 bits
    assert torch.equal(decoded_tensor(coded_tensor(given, Packing(3))), given)


def test_trained_numbers_take_less_because_of_their_exponents():
    numbers = torch.randn(64, 32) * 0.02
    assert len(coded_tensor(numbers).data) < 0.88 * numbers.nbytes
    assert len(coded_tensor(numbers.half()).data) < 0.88 * numbers.half().nbytes


@pytest.mark.parametrize("compression", [Sparse(keep=0.05, values={"bits": 3}), IntN(bits=3)], ids=["sparse", "intN"])
def test_a_weight_is_read_back_from_its_coded_tensors_whatever_form_they_have(compression):
    weight = torch.randn(40, 60) * torch.rand(60)
    small = GroupedWeight([compression.compress(weight, None), compression.compress(weight + 1, None)])
    tensors = small.to_tensors()
    numbers = {kind: tensor for kind, tensor in tensors.items() if tensor.is_floating_point()}
    again = {**numbers, **{kind: decoded_tensor(coded) for kind, coded in small.coded_tensors.items()}}
    loaded = compression.load_weight(again, (80, 60), 2)
    assert torch.equal(loaded.dense(), small.dense())
    assert {kind: tensor.shape for kind, tensor in loaded.to_tensors().items()} == {
        kind: tensor.shape for kind, tensor in again.items()
    }
    raw = sum(tensor.nbytes for kind, tensor in tensors.items() if kind not in numbers)
    assert sum(len(coded.data) for coded in small.coded_tensors.values()) < raw


def test_bytes_that_do_not_fit_are_refused():
    coded = coded_tensor(torch.randn(64, 32))
    for data in (coded.data[:-1], coded.data[:5], coded.data + b"x", b""):
        with pytest.raises(ValueError, match="bytes"):
            decoded_tensor(CodedTensor(coded.dtype, coded.shape, data, coded.packing))
    with pytest.raises(ValueError, match="packing"):
        decoded_tensor(CodedTensor(torch.uint8, (4,), b"abcd", Packing(9)))
