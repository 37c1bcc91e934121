import functools
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import label
from moments import output_error, random_stats

from pipeline.compress.coded_tensors import coded_tensor
from pipeline.compress.methods.codebook import Codebook
from pipeline.compress.methods.intn import IntN
from pipeline.compress.rate import code_lengths, rated_codes
from pipeline.compress.rounding import DAMPING

METHODS = [
    IntN(bits=4),
    IntN(bits=8),
    IntN(bits=4, symmetric=False),
    IntN(bits=3, group=24, symmetric=False),
    IntN(bits=4, rounding="gptq"),
    IntN(bits=4, rounding="coordinate"),
    Codebook(),
    Codebook(metric="activation"),
    Codebook(size=64, vector=3),
]


def at(method, rate):
    return method.model_copy(update={"rate": rate})


def bits_per_weight(small):
    return 8 * len(coded_tensor(small.to_tensors()["code"], small.packings["code"]).data) / small.dense().numel()


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_a_higher_rate_never_gives_a_larger_coded_size(method):
    W, stats = torch.randn(24, 60, generator=torch.Generator().manual_seed(1)), random_stats(60)
    sizes = [bits_per_weight(at(method, rate).compress(W, stats)) for rate in (0, 0.02, 0.05, 0.1, 0.2, 0.5)]
    # The alternation ends in a local minimum: 5 % of a size are allowed.
    assert all(after <= 1.05 * before for before, after in pairwise(sizes)), sizes
    assert sizes[-1] < 0.75 * sizes[0]


@pytest.mark.parametrize("method", METHODS, ids=label)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), out=st.integers(1, 9), inner=st.integers(1, 23), rate=st.floats(1e-4, 10))
def test_any_layer_is_compressed_and_read_back(method, seed, out, inner, rate):
    W, stats = torch.randn(out, inner, generator=torch.Generator().manual_seed(seed)), random_stats(inner, seed)
    W[0] = 0.0
    rated = at(method, rate)
    small = rated.compress(W, stats)
    assert torch.isfinite(small.dense()).all()
    assert torch.equal(rated.from_tensors(small.to_tensors(), (out, inner)).dense(), small.dense())
    assert small.bits.total() == method.compress(W, stats).bits.total()


@functools.cache
def of_gaussian(method):
    W = torch.randn(128, 512, generator=torch.Generator().manual_seed(0))
    small = method.compress(W, None)
    return bits_per_weight(small), float((W - small.dense()).square().mean())


@pytest.mark.parametrize(
    ("coarse", "rated"),
    [
        (IntN(bits=2), IntN(bits=4, rate=0.165)),
        (IntN(bits=2, symmetric=False), IntN(bits=4, symmetric=False, rate=0.165)),
        (IntN(bits=3), IntN(bits=4, rate=0.047)),
        (IntN(bits=3, symmetric=False), IntN(bits=8, symmetric=False, rate=0.05)),
        (Codebook(size=4), Codebook(size=16, rate=0.14)),
        (Codebook(size=8), Codebook(size=32, rate=0.048)),
    ],
    ids=label,
)
def test_gaussian_weights_lose_a_sixth_less_than_on_a_coarser_grid_of_the_same_coded_size(coarse, rated):
    (bits, error), (rated_bits, rated_error) = of_gaussian(coarse), of_gaussian(rated)
    assert rated_bits == pytest.approx(bits, rel=0.04)
    assert rated_error * 4 ** (rated_bits - bits) < 0.85 * error  # at the same size: a bit divides an error by 4


def test_by_the_inputs_the_outputs_change_less_than_on_a_coarser_grid_of_the_same_coded_size():
    W, stats = torch.randn(48, 96, generator=torch.Generator().manual_seed(2)), random_stats(96)
    D = stats.with_ridge(DAMPING).damped()
    coarse, rated = (
        method.compress(W, stats)
        for method in (IntN(bits=2, rounding="coordinate"), IntN(bits=4, rounding="coordinate", rate=0.2))
    )
    assert bits_per_weight(rated) <= bits_per_weight(coarse)
    assert float(output_error(W, rated.dense(), D).sum()) < float(output_error(W, coarse.dense(), D).sum())


@pytest.mark.parametrize(
    ("method", "total"),
    [(IntN(bits=2), 1983619), (IntN(bits=3, group=25, symmetric=False), 3699323), (Codebook(size=8), 3638555)],
    ids=["intN", "intN by group", "codebook"],
)
def test_without_a_rate_codes_are_those_of_versions_before_it(method, total):
    W = ((torch.arange(24 * 60) * 7919 % 1009 - 504) / 300).view(24, 60)
    codes = at(method, 0).compress(W, None).code.flatten().long()
    assert int((codes * torch.arange(1, 1 + len(codes))).sum()) == total


def test_without_a_rate_options_are_stored_as_before():
    assert "rate" not in IntN(bits=2).model_dump()
    assert "rate" not in Codebook().model_dump()


def test_coordinates_of_weight_zero_do_not_count_in_the_price_of_a_bit():
    X, M = torch.randn(300, 2), torch.tensor([1.0, 0.0]).expand(300, 2)
    centroids = torch.linspace(-2, 2, 8)[:, None].expand(8, 2)
    assert torch.equal(rated_codes(X, centroids, M, 0.1), rated_codes(X[:, :1], centroids[:, :1], None, 0.1))


def test_codes_that_are_not_used_have_no_length():
    assert code_lengths(torch.tensor([[0, 0], [1, 3]]), 4).tolist() == [1, 2, float("inf"), 2]
