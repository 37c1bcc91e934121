import pytest
import torch
from moments import output_error, random_stats
from pydantic import ValidationError
from torch import nn

from pipeline.compress.methods.codebook import Codebook


def test_a_code_takes_as_few_bits_as_can_tell_centroids_apart_and_centroids_count_as_scales():
    weight = torch.randn(64, 90)
    for size, vector, payload in ((2, 1, 720), (16, 1, 2880), (17, 1, 3600), (16, 9, 320), (256, 4, 1472)):
        bits = Codebook(size=size, vector=vector).compress(weight, None).bits
        assert (bits.payload, bits.scale) == (8 * payload, 32 * size * vector)


def test_a_kernel_of_3_by_3_is_one_vector():
    layer = nn.Conv2d(8, 16, 3)
    kernels = torch.randn(4, 9)
    weight = kernels[torch.randint(4, (16, 8))].flatten(1)
    layer.weight.data = weight.view_as(layer.weight)
    small = Codebook(size=4, vector=9).compress_layer(layer, weight, ())
    torch.testing.assert_close(small.dense(), weight)
    assert small.bits.payload == 2 * 16 * 8


@pytest.mark.parametrize("vector", [1, 3, 8])
def test_every_vector_is_the_nearest_of_at_most_k(vector):
    weight = torch.randn(20, 48)
    small = Codebook(size=6, vector=vector).compress(weight, None)
    rows, dense = weight.view(-1, vector), small.dense().view(-1, vector)
    assert len(dense.unique(dim=0)) <= 6
    distances = torch.cdist(rows, small.centroid)
    torch.testing.assert_close((rows - dense).norm(dim=1), distances.min(1).values, rtol=1e-3, atol=1e-4)


def test_the_last_vector_of_a_row_that_does_not_fill_is_what_is_there():
    weight = torch.tensor([-3.0, -1.0, 1.0, 3.0])[torch.arange(32) % 4, None].expand(32, 5).contiguous()
    dense = Codebook(size=4, vector=3).compress(weight, None).dense()
    torch.testing.assert_close(dense, weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("vector", [1, 4])
def test_weighing_inputs_lowers_the_error_of_uncorrelated_outputs(vector):
    weight, stats = torch.randn(60, 40), random_stats(40, dead=10)
    moment = torch.diag(stats.diagonal)
    plain, weighted = (
        output_error(
            weight, Codebook(size=8, vector=vector, metric=metric).compress(weight, stats).dense(), moment
        ).sum()
        for metric in ("weight", "activation")
    )
    assert weighted < plain


def test_a_centroid_gets_the_mean_direction_of_its_members():
    weight = torch.randn(10, 12)
    small = Codebook(size=3, vector=2).compress(weight, None)
    tensors = {k: t.clone().requires_grad_(t.is_floating_point()) for k, t in small.to_trainable(weight).items()}
    upstream = torch.randn(10, 12)
    small.project(tensors).backward(upstream)
    assert torch.equal(tensors["latent"].grad, upstream)
    code, by_vector = small.code.flatten().long(), upstream.view(-1, 2)
    sums = torch.stack([by_vector[code == k].sum(0) for k in range(3)])
    torch.testing.assert_close(tensors["centroid"].grad, sums * (6 / 120) ** 0.5)


@pytest.mark.parametrize("options", [{"size": 1}, {"size": 257}, {"vector": 0}, {"vector": 10}])
def test_sizes_beyond_what_is_stored_are_refused(options):
    with pytest.raises(ValidationError):
        Codebook(**options)
