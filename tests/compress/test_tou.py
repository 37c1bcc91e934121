import pytest
import torch
from moments import random_stats

from pipeline.compress.methods.intn import CodeWeight, IntN
from pipeline.compress.methods.no_compression import DenseWeight
from pipeline.compress.methods.svd import Svd
from pipeline.compress.methods.tou_factors import Tou


@pytest.mark.parametrize("metric", ["weight", "activation"])
@pytest.mark.parametrize("size", [{"rank": 3}, {"energy": 0.6}, {"budget": 0.5}], ids=str)
def test_it_is_the_svd_with_the_values_in_the_first_factor(size, metric):
    weight, stats = torch.randn(9, 12, dtype=torch.float64), random_stats(12)
    small = Tou(**size, metric=metric).compress(weight, stats)
    torch.testing.assert_close(small.dense(), Svd(**size, metric=metric).compress(weight, stats).dense())
    first, second = small.factors
    if metric == "weight":
        torch.testing.assert_close(second @ second.T, torch.eye(len(second), dtype=torch.float64))
        torch.testing.assert_close((first.T @ first).diagonal(), torch.linalg.svdvals(weight)[: len(second)] ** 2)


def test_the_frozen_factor_is_compressed_and_the_trained_one_is_not():
    method = Tou(rank=4, frozen={"method": "intN", "bits": 8})
    small = method.compress(torch.randn(9, 12), None)
    assert isinstance(small.first, CodeWeight)
    assert isinstance(small.second, DenseWeight)
    assert small.bits.total() == 8 * 9 * 4 + 32 * 9 + 32 * 4 * 12
    assert method.frozen == IntN(bits=8)


@pytest.mark.parametrize("frozen", ["none", "intN"])
def test_trained_factors_take_the_place_of_the_first_ones_and_come_back_from_tensors(frozen):
    method = Tou(rank=4, frozen=frozen)
    small = method.compress(torch.randn(9, 12), None)
    trained = torch.randn(4, 12)
    other = small.with_factors(None, trained)
    assert other.first is small.first
    assert torch.equal(other.second.dense(), trained)
    torch.testing.assert_close(other.dense(), small.first.dense() @ trained)
    assert other.bits == small.bits
    assert torch.equal(method.from_tensors(other.to_tensors(), (9, 12)).dense(), other.dense())
    both = small.with_factors(torch.randn(9, 4), trained)
    torch.testing.assert_close(both.dense(), both.first.dense() @ trained)
    assert torch.equal(Tou(rank=4).from_tensors(both.to_tensors(), (9, 12)).dense(), both.dense())
