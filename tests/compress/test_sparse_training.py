"""Sparse weights in training: what is kept moves with the latent weights, or stays."""

import pytest
import torch
from moments import random_stats

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


@EACH
def test_what_is_kept_begins_as_compression_chose_it_and_stays_so_when_it_is_chosen_anew(method):
    weight = torch.randn(16, 32)
    small = method.compress(weight, None)
    tensors = small.to_trainable(weight)
    for begun in (tensors, {**tensors, **small.refreshed(tensors)}):
        assert torch.equal(small.with_trained(begun).kept, small.kept)
        torch.testing.assert_close(small.project(begun), small.dense())


def test_another_choice_than_the_largest_is_kept_at_the_start_of_training():
    weight = torch.randn(16, 32)
    small = Sparse(score="max", values=FewBits(bits=2)).compress(weight, None)
    tensors = small.to_trainable(weight)
    assert torch.equal(small.with_trained({**tensors, **small.refreshed(tensors)}).kept, small.kept)


def test_small_steps_do_not_undo_what_rounding_kept_against_the_magnitudes():
    torch.manual_seed(0)
    weight = torch.randn(16, 32)
    small = Sparse(keep=0.3, values=FewBits(levels=4), rounding="coordinate").compress(weight, random_stats(32))
    tensors = small.to_trainable(weight)
    by_size = Sparse(keep=0.3, values=FewBits(levels=4)).compress(weight, None).kept
    added, dropped = small.kept & ~by_size, by_size & ~small.kept
    assert added.any()
    latent = tensors["latent"].abs()
    least = latent[small.kept].min()
    assert (latent[dropped] <= 0.5 * least).all()
    torch.testing.assert_close(tensors["latent"][added], small.dense()[added])


@EACH
def test_a_latent_that_grows_is_kept_instead_of_the_smallest_once_it_is_chosen_anew(method):
    weight = torch.randn(16, 32)
    small = method.compress(weight, None)
    tensors = small.to_trainable(weight)
    row, column = (~small.kept).nonzero()[5].tolist()
    tensors["latent"][row, column] = 1.5 * weight.abs().max()
    assert torch.equal(small.with_trained(tensors).kept, small.kept)
    moved = small.with_trained({**tensors, **small.refreshed(tensors)})
    assert moved.kept[row, column]
    assert int(moved.kept.sum()) == int(small.kept.sum())
    assert moved.bits == small.bits


@EACH
def test_all_latents_get_gradients(method):
    weight = torch.randn(16, 32)
    small = method.compress(weight, None)
    tensors = small.to_trainable(weight)
    latent = tensors["latent"].clone().requires_grad_()
    small.project({**tensors, "latent": latent}).backward(torch.ones(16, 32))
    assert int(latent.grad.count_nonzero()) == 512


def test_a_latent_far_beyond_the_grid_is_clipped():
    weight = torch.randn(16, 32)
    small = Sparse(keep=0.5, values=FewBits(bits=2)).compress(weight, None)
    tensors = small.to_trainable(weight)
    tensors["latent"][0, 0] = 100.0
    assert small.refreshed(tensors)["latent"][0, 0] < 10
