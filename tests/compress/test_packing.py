import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import random_stats
from torch import nn

from pipeline.compress.contract import LayerCompression
from pipeline.compress.few_bits import FewBits
from pipeline.compress.grouped_weight import join_groups
from pipeline.compress.methods.codebook import Codebook
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.methods.svd import Svd
from pipeline.compress.methods.svdlora import SvdLora
from pipeline.compress.methods.tou_factors import Tou
from pipeline.compress.packing import pack, unpack

BLOCKS = ("4x4", "1x16", "3x3", "5x5", "2:4", "1:4", "4:8")
METHODS = [
    NoCompression(),
    *(Int1(scale=scale, metric=metric) for scale in ("row", "tensor", "none") for metric in ("weight", "activation")),
    *(Sparse(block=block) for block in BLOCKS),
    *(Sparse(block=block, score="activation", refit=True) for block in BLOCKS),
    Sparse(score="max"),
    Sparse(score="max", refit=True),
    *(Sparse(keep=keep) for keep in (0.05, 0.3, 0.9)),
    Sparse(keep=0.1, score="activation", refit=True),
    *(Sparse(keep=0.2, values=FewBits(bits=bits, scale=scale)) for bits in (1, 2, 5, 8) for scale in ("tensor", "row")),
    *(Sparse(block="2:4", values=FewBits(levels=levels)) for levels in (2, 6, 20, 256)),
    *(IntN(bits=bits, group=group) for bits in (2, 3, 4, 8) for group in (0, 7)),
    *(IntN(bits=bits, symmetric=False, group=group) for bits in (3, 8) for group in (0, 7)),
    *(Codebook(size=size, vector=vector) for size, vector in ((2, 1), (16, 1), (17, 3), (4, 9), (256, 2))),
    Codebook(size=8, vector=4, metric="activation"),
    Svd(budget=0.3, singular_values=True),
    *(Svd(rank=3, metric="activation", factors=factors) for factors in ("none", "int1", "intN", "sparse")),
    *(SvdLora(rank=5, steps=3, bits=bits) for bits in (32, 8, 1)),
    Tou(rank=4, frozen="int1"),
]
OF = {"sign": "payload", "dense": "payload", "value": "payload", "values": "payload", "code": "payload"}
OF |= {"index": "index", "rank": "index", "scale": "scale", "zero": "scale", "level": "scale", "centroid": "scale"}


def random_weight(out: int, inner: int, seed: int) -> torch.Tensor:
    """Normal values, among them zeros of both signs and numbers too small to be normal."""
    weight = torch.randn(out, inner, generator=torch.Generator().manual_seed(seed))
    weight.view(-1)[::5] = 0.0
    weight.view(-1)[::7] = -0.0
    weight.view(-1)[::11] *= 1e-40
    return weight


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    same_kind = (one.dtype, one.shape) == (other.dtype, other.shape)
    return same_kind and torch.equal(*(tensor.flatten().contiguous().view(torch.uint8) for tensor in (one, other)))


@given(width=st.integers(1, 16), codes=st.lists(st.integers(0, 2**16 - 1), max_size=70))
def test_codes_of_any_width_come_back_from_the_fewest_whole_bytes(width, codes):
    codes = torch.tensor(codes, dtype=torch.int64) % 2**width
    packed = pack(codes, width)
    assert packed.dtype == torch.uint8
    assert packed.nbytes == -(-len(codes) * width // 8)
    assert torch.equal(unpack(packed, len(codes), width), codes)


def test_the_first_code_stands_in_the_lowest_bits():
    assert pack(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack(torch.tensor([True, False, False, False, False, False, False, False, True]), 1).tolist() == [1, 1]


@settings(max_examples=15)
@given(out=st.integers(1, 12), inner=st.integers(1, 40), seed=st.integers(0, 99))
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_packed_weight_comes_back_bit_for_bit_at_its_predicted_size(method: LayerCompression, out, inner, seed):
    stats = random_stats(inner, seed)
    small = method.compress(random_weight(out, inner, seed), stats)
    tensors = small.to_tensors()
    loaded = method.from_tensors(tensors, (out, inner))
    assert same_bits(loaded.dense(), small.dense())
    assert all(same_bits(loaded.to_tensors()[key], tensor) for key, tensor in tensors.items())

    assert small.bits.total() == 8 * sum(tensor.nbytes for tensor in tensors.values())
    for use in ("payload", "index", "scale"):
        nbytes = [tensor.nbytes for key, tensor in tensors.items() if OF[key.rpartition("_")[2]] == use]
        assert getattr(small.bits, use) == 8 * sum(nbytes)
    assert method.compress(torch.zeros(out, inner), stats).bits == small.bits == loaded.bits
    assert loaded.macs == small.macs
    assert loaded.shape == small.shape == (out, inner)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(5, 10, 3, groups=5)], ids=["two", "depthwise"]
)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_grouped_weight_comes_back_group_by_group(method: LayerCompression, layer):
    groups, inner = layer.groups, layer.weight[0].numel()
    weight = layer.weight.detach().flatten(1)
    stats = [random_stats(inner, seed) for seed in range(groups)]
    parts = [method.compress(*pair) for pair in zip(weight.chunk(groups), stats, strict=True)]
    small = join_groups(parts)
    tensors = small.to_tensors()
    loaded = method.load_weight(tensors, tuple(weight.shape), groups)
    assert small.shape == loaded.shape == weight.shape
    assert same_bits(loaded.dense(), torch.cat([part.dense() for part in parts]))
    assert small.bits.total() == 8 * sum(tensor.nbytes for tensor in tensors.values())
    assert small.macs == sum(part.macs for part in parts)


def test_groups_of_unequal_rank_are_packed_side_by_side():
    method = Svd(energy=0.9)
    one = torch.outer(torch.randn(6), torch.randn(9))
    small = join_groups([method.compress(weight, None) for weight in (one, torch.randn(6, 9))])
    tensors = small.to_tensors()
    assert {key.partition("_")[0] for key in tensors} == {"group0", "group1"}
    assert tensors["group0_first_dense"].shape[1] == 1 < tensors["group1_first_dense"].shape[1]
    loaded = method.load_weight(tensors, (12, 9), 2)
    assert same_bits(loaded.dense(), small.dense())
    assert small.bits.total() == 8 * sum(tensor.nbytes for tensor in tensors.values())
    gain = torch.arange(12.0)
    torch.testing.assert_close(small.scaled_rows(gain).dense(), gain[:, None] * small.dense())
