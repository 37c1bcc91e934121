"""Sparse weights in training: what is kept moves with the latent weights, or stays."""

import pytest
import torch

from pipeline.compress.few_bits import FewBits
from pipeline.compress.methods.sparse import Sparse

METHODS = [
    Sparse(keep=0.1),
    Sparse(block="2:4"),
    Sparse(keep=0.1, values=FewBits(bits=3)),
    Sparse(block="1x16", values=FewBits(levels=6)),
    Sparse(keep=0.3, values=FewBits(bits=1)),
]
EACH = pytest.mark.parametrize("method", METHODS, ids=str)


def moving(tensors):
    return {kind: tensor for kind, tensor in tensors.items() if kind != "kept"}


@EACH
def test_what_is_kept_begins_as_compression_chose_it_whether_it_moves_or_not(method):
    weight = torch.randn(16, 32)
    small = method.compress(weight, None)
    tensors = small.trainable(weight)
    for begun in (tensors, moving(tensors)):
        assert torch.equal(small.with_trained(begun).kept, small.kept)
        torch.testing.assert_close(small.project(begun), small.dense())


def test_another_choice_than_the_largest_is_kept_at_the_start_of_training():
    weight = torch.randn(16, 32)
    small = Sparse(score="max", values=FewBits(bits=2)).compress(weight, None)
    assert torch.equal(small.with_trained(moving(small.trainable(weight))).kept, small.kept)


@EACH
def test_a_latent_that_grows_is_kept_instead_of_the_smallest_unless_the_choice_is_fixed(method):
    weight = torch.randn(16, 32)
    small = method.compress(weight, None)
    tensors = small.trainable(weight)
    row, column = (~small.kept).nonzero()[5].tolist()
    tensors["latent"][row, column] = 1.5 * weight.abs().max()
    moved, fixed = small.with_trained(moving(tensors)), small.with_trained(tensors)
    assert moved.kept[row, column]
    assert torch.equal(fixed.kept, small.kept)
    assert int(moved.kept.sum()) == int(small.kept.sum())
    assert moved.bits == small.bits


@EACH
def test_all_latents_get_gradients_while_the_choice_moves_and_kept_ones_alone_if_it_is_fixed(method):
    weight = torch.randn(16, 32)
    small = method.compress(weight, None)
    for tensors, reached in ((moving(small.trainable(weight)), 512), (small.trainable(weight), int(small.kept.sum()))):
        latent = tensors["latent"].clone().requires_grad_()
        small.project({**tensors, "latent": latent}).backward(torch.ones(16, 32))
        assert int(latent.grad.count_nonzero()) == reached


def test_a_latent_far_beyond_the_grid_gets_no_gradient():
    weight = torch.randn(16, 32)
    small = Sparse(keep=0.5, values=FewBits(bits=2)).compress(weight, None)
    tensors = small.trainable(weight)
    tensors["latent"][0, 0] = 100.0
    latent = tensors["latent"].clone().requires_grad_()
    small.project({**moving(tensors), "latent": latent}).backward(torch.ones(16, 32))
    assert latent.grad[0, 0] == 0
    assert latent.grad.count_nonzero() == 511
