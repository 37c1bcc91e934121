import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import output_error, random_stats
from pydantic import ValidationError

from pipeline.compress.few_bits import FewBits
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.sparsity import Blocks, Share

PATTERNS = [Blocks.parse("4x4"), Blocks.parse("2:4"), Share(0.02), Share(0.05), Share(0.5), Share(0.1, smallest=False)]
EACH_PATTERN = pytest.mark.parametrize("pattern", PATTERNS, ids=str)


@EACH_PATTERN
@settings(max_examples=25)
@given(out=st.integers(1, 30), inner=st.integers(1, 60), seed=st.integers(0, 99))
def test_positions_of_any_scores_come_back_from_a_size_that_the_shape_decides(pattern, out, inner, seed):
    scores = torch.randn(out, inner, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    kept = pattern.kept(scores)
    assert int(kept.sum()) == pattern.count((out, inner))
    tensors = pattern.to_tensors(kept)
    assert torch.equal(pattern.from_tensors(tensors, (out, inner)), kept)
    shapes = pattern.to_tensors(kept.to("meta"))
    assert {name: tensor.shape for name, tensor in shapes.items()} == {name: t.shape for name, t in tensors.items()}
    assert all(name.endswith("index") for name in tensors)


@EACH_PATTERN
def test_stacked_scores_keep_what_each_keeps_alone(pattern):
    scores = torch.randn(3, 17, 22)
    together = torch.vmap(pattern.kept)(scores)
    assert torch.equal(together, torch.stack([pattern.kept(one) for one in scores]))


@EACH_PATTERN
def test_positions_are_those_of_what_is_kept_in_every_lane(pattern):
    scores = torch.randn(3, 17, 22)
    for lane, positions in zip(scores, torch.vmap(pattern.positions)(scores), strict=True):
        assert torch.equal(positions.sort().values, pattern.kept(lane).flatten().nonzero().flatten())


def test_a_share_keeps_the_largest_of_the_whole_layer():
    weight = torch.randn(40, 50)
    small = Sparse(keep=0.05).compress(weight, None)
    assert int(small.kept.sum()) == small.macs == 100
    assert weight[small.kept].abs().min() >= weight[~small.kept].abs().max()
    assert torch.equal(small.dense(), weight * small.kept)
    assert Sparse(keep=1e-6).compress(weight, None).macs == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_share_keeps_the_largest_in_any_type(dtype):
    scores = torch.randperm(200).view(10, 20).to(dtype)
    assert Share(0.1).positions(scores).sort().values.tolist() == (scores.flatten() >= 180).nonzero().flatten().tolist()


@pytest.mark.parametrize(("keep", "bits"), [(0.02, 0.19), (0.05, 0.32), (0.1, 0.53), (0.5, 1.0)])
def test_positions_take_little_more_than_their_entropy(keep, bits):
    kept = Share(keep).kept(torch.randn(256, 784))
    stored = 8 * sum(tensor.nbytes for tensor in Share(keep).to_tensors(kept).values()) / kept.numel()
    entropy = -keep * math.log2(keep) - (1 - keep) * math.log2(1 - keep)
    assert entropy <= stored <= bits
    assert Share(keep, smallest=False).to_tensors(kept)["mask_index"].nbytes == kept.numel() // 8


def test_packed_positions_of_another_number_are_refused():
    share = Share(0.05)
    tensors = share.to_tensors(share.kept(torch.randn(20, 30)))
    with pytest.raises(ValueError, match="positions are 0, and 30 of 600 weights are kept"):
        share.from_tensors({**tensors, "high_index": torch.zeros_like(tensors["high_index"])}, (20, 30))


def test_a_share_weighs_inputs_and_is_refitted_as_blocks_are():
    weight, stats = torch.randn(9, 32, dtype=torch.float64), random_stats(32)
    kept = Sparse(keep=0.2, score="activation").compress(weight, stats).kept
    assert torch.equal(kept, Share(0.2).kept(weight.abs() * stats.diagonal.sqrt()))
    plain, refitted = (Sparse(keep=0.2, refit=refit).compress(weight, stats).dense() for refit in (False, True))
    errors = (output_error(weight, dense, stats.damped()).sum() for dense in (refitted, plain))
    assert next(errors) < 0.9 * next(errors)


def test_values_in_few_bits_take_these_bytes():
    weight = torch.randn(64, 100)
    for values, payload, scale in (
        (FewBits(bits=1), 40, 4),
        (FewBits(bits=3), 120, 8),
        (FewBits(bits=3, scale="row"), 120, 512),
        (FewBits(levels=6), 120, 24),
        (FewBits(levels=256), 320, 1024),
    ):
        bits = Sparse(keep=0.05, values=values).compress(weight, None).bits
        assert (bits.payload, bits.scale) == (8 * payload, 8 * scale)
        assert bits.index == Sparse(keep=0.05).compress(weight, None).bits.index


def test_a_sparse_weight_of_one_bit_is_ternary():
    dense = Sparse(keep=0.4, values=FewBits(bits=1)).compress(torch.randn(20, 30), None).dense()
    assert len(dense.unique()) == 3
    assert int(dense.count_nonzero()) == 240


def test_two_patterns_at_once_are_refused():
    with pytest.raises(ValidationError, match="each say what is kept; give one of the two"):
        Sparse(keep=0.1, block="2:4")


def test_the_defaults_are_stored_as_before():
    assert Sparse().model_dump(mode="json") == {"method": "sparse", "block": "4x4", "score": "abs", "refit": False}
