"""Small tensors in 16 bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress.small_tensors import as_stored, in_16_bits, is_small, round_small, stored_bytes, widened
from pipeline.config.combination_spec import PLAIN, StorageSpec

HALF = StorageSpec(small="float16")


@pytest.mark.parametrize(
    ("name", "shape", "small"),
    [
        ("fc1.bias", (3,), True),
        ("norm.weight", (3,), True),
        ("fc1.weight", (3, 4), False),
        ("fc1.weight.scale", (3, 2), True),
        ("fc1.weight.first_scale", (3,), True),
        ("fc1.weight.value", (30,), False),
        ("fc1.weight.values", (3,), True),
        ("fc1.lora_A", (2, 3), False),
        ("fc1.lora_A_scale", (2,), True),
        ("fc1.weight_latent", (3,), False),
    ],
)
def test_small_are_grids_and_vectors_that_are_no_payload(name, shape, small):
    assert is_small(name, torch.zeros(shape)) is small
    assert not is_small(name, torch.zeros(shape, dtype=torch.int32))
    assert is_small(name, torch.zeros(5, *shape), lanes=1) is small


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        (0.0, torch.float16),
        (1.0, torch.float16),
        (7e4, torch.bfloat16),
        (1e-6, torch.bfloat16),
        (6.1e-5, torch.float16),  # in bfloat16 it is the least normal number of float16
        (6.0e-5, torch.bfloat16),
    ],
)
def test_values_outside_the_range_of_float16_are_bfloat16(largest, dtype):
    assert in_16_bits(torch.tensor([0.0, -largest])).dtype == dtype


@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.floats(2**-15, 2**-13, width=32), max_size=4))
def test_a_file_keeps_rounded_values_as_they_are(values):
    tensors = {"bias": torch.tensor(values)}
    rounded = round_small(tensors, HALF)
    stored = as_stored(rounded, HALF)
    assert torch.equal(widened(stored)["bias"], rounded["bias"])
    assert stored["bias"].nbytes == stored_bytes("bias", tensors["bias"], HALF)
    assert as_stored(rounded, PLAIN)["bias"] is rounded["bias"]


def test_each_lane_is_rounded_by_itself():
    lanes = torch.tensor([[1.0, 0.1], [1e5, 0.1]])
    rounded = round_small({"bias": lanes}, HALF, lanes=1)["bias"]
    assert torch.equal(rounded, torch.stack([lanes[0].half().float(), lanes[1].bfloat16().float()]))
