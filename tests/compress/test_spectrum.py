import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compress.spectrum import effective_rank, product_singular_values, shares, singular_values

SIDES = st.integers(1, 12)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SIDES, SIDES, st.integers(1, 15), st.floats(-8, 8), st.integers(0, 99))
def test_a_products_spectrum_is_that_of_the_built_product(out, inner, rank, s, seed):
    B, A = drawn(seed, out, rank), drawn(seed + 1, rank, inner)
    found = product_singular_values(B, A, s)
    built = torch.linalg.svdvals(s * B @ A)
    assert len(found) == min(out, rank, inner)
    assert (found - built[: len(found)]).abs().max() < 1e-9
    assert built[len(found) :].sum() < 1e-9


def test_a_product_is_decomposed_without_being_built(monkeypatch):
    seen = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix: seen.append(matrix.shape) or svdvals(matrix))
    product_singular_values(torch.randn(300, 4), torch.randn(4, 500))
    assert seen == [(4, 4)]


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_the_effective_rank_of_an_identity_is_its_size(n):
    assert effective_rank(singular_values(torch.eye(n))) == pytest.approx(n)


def test_the_effective_rank_of_a_matrix_of_rank_one_is_one():
    assert effective_rank(singular_values(torch.outer(torch.randn(9), torch.randn(5)))) == pytest.approx(1, abs=1e-4)
    assert effective_rank(product_singular_values(torch.randn(9, 1), torch.randn(1, 5))) == 1


def test_the_effective_rank_is_the_exponential_of_the_entropy():
    p = (0.5, 0.25, 0.25)
    expected = math.exp(-sum(each * math.log(each) for each in p))
    assert effective_rank(singular_values(torch.diag(3 * torch.tensor(p)))) == pytest.approx(expected)


@given(st.floats(1e-20, 1e20), SIDES, SIDES, st.integers(0, 99))
def test_the_effective_rank_does_not_change_with_the_scale_and_lies_between_one_and_the_rank(scale, out, inner, seed):
    values = singular_values(drawn(seed, out, inner))
    rank = effective_rank(values)
    assert effective_rank(scale * values) == pytest.approx(rank)
    assert 1 - 1e-9 <= rank <= min(out, inner) + 1e-9


def test_a_zero_matrix_has_no_shares_and_an_effective_rank_of_zero():
    values = product_singular_values(torch.zeros(6, 2), torch.randn(2, 5))
    assert effective_rank(values) == 0
    assert torch.equal(shares(values), torch.zeros(2, dtype=torch.float64))


def test_shares_sum_to_one_and_descend():
    p = shares(singular_values(torch.randn(5, 8)))
    assert float(p.sum()) == pytest.approx(1)
    assert torch.equal(p, p.sort(descending=True).values)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_decomposed(bad):
    matrix = torch.eye(3)
    matrix[1, 1] = bad
    for decompose in (lambda: singular_values(matrix), lambda: product_singular_values(matrix, torch.eye(3))):
        with pytest.raises(torch.linalg.LinAlgError, match="NaN or infinite"):
            decompose()
