import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import output_error, random_stats
from pydantic import ValidationError

from pipeline.compress.factorisation import Truncation
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import CodeWeight, IntN
from pipeline.compress.methods.svd import Svd


def of_spectrum(values: list[float], out: int = 8, inner: int = 12) -> torch.Tensor:
    """A float64 weight with these singular values."""
    k = len(values)
    U, V = (torch.linalg.qr(torch.randn(n, k, dtype=torch.float64)).Q for n in (out, inner))
    return U * torch.tensor(values, dtype=torch.float64) @ V.T


def rank_of(method: Truncation, weight: torch.Tensor, stats=None) -> int:
    return method.compress(weight, stats).second.shape[0]


def test_what_is_lost_is_the_values_that_were_left_out():
    values = [5.0, 3.0, 2.0, 1.0]
    weight = of_spectrum(values)
    for r in (1, 2, 3, 4):
        lost = weight - Svd(rank=r).compress(weight, None).dense()
        assert float(lost.square().sum()) == pytest.approx(sum(s * s for s in values[r:]), abs=1e-9)


@settings(max_examples=25)
@given(out=st.integers(1, 10), inner=st.integers(2, 10), seed=st.integers(0, 99), r=st.integers(1, 10))
def test_by_activations_no_weight_of_its_rank_has_a_smaller_output_error(out, inner, seed, r):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inner, dtype=torch.float64, generator=generator)
    stats = random_stats(inner, seed)
    r = min(r, out, inner)

    def error(dense: torch.Tensor) -> float:
        return float(output_error(weight, dense, stats.damped()).sum())

    small = Svd(rank=r, metric="activation").compress(weight, stats)
    best = error(small.dense())
    left_out = torch.linalg.svdvals(stats.times_root(weight))[r:].square().sum()
    assert best == pytest.approx(float(left_out), rel=1e-6, abs=1e-9)
    slack = 1e-9 * error(torch.zeros_like(weight))
    assert best <= error(Svd(rank=r).compress(weight, None).dense()) + slack
    first, second = small.factors
    for _ in range(5):
        near = [f + 0.01 * f.norm() * torch.randn(f.shape, dtype=f.dtype, generator=generator) for f in (first, second)]
        assert best <= error(near[0] @ near[1]) + slack


def test_activations_that_are_all_alike_change_nothing():
    weight, stats = torch.randn(6, 9, dtype=torch.float64), random_stats(9)
    white = type(stats)(3 * torch.eye(9, dtype=torch.float64))
    plain = Svd(rank=2).compress(weight, None).dense()
    torch.testing.assert_close(Svd(rank=2, metric="activation").compress(weight, white).dense(), plain)
    assert not torch.allclose(Svd(rank=2, metric="activation").compress(weight, stats).dense(), plain, atol=0.1)


def test_factors_share_the_singular_values_or_leave_them_apart():
    weight = of_spectrum([5.0, 3.0, 2.0])
    first, second = Svd(rank=3).compress(weight, None).factors
    roots = torch.diag(torch.tensor([5.0, 3.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(first.T @ first, roots)
    torch.testing.assert_close(second @ second.T, roots)
    apart = Svd(rank=3, singular_values=True).compress(weight, None)
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(apart.values, roots.diagonal())
    torch.testing.assert_close(apart.first.dense().T @ apart.first.dense(), identity)
    torch.testing.assert_close(apart.dense(), weight)
    assert apart.bits.total() == 32 * 3 * (8 + 12 + 1) == 32 * apart.macs


@pytest.mark.parametrize(("energy", "rank"), [(0.1, 1), (0.4, 1), (0.401, 2), (0.7, 2), (0.9, 3), (0.91, 4), (1.0, 4)])
def test_energy_keeps_the_fewest_values_that_hold_that_share(energy, rank):
    weight = of_spectrum([0.4001**0.5, 0.3**0.5, 0.2**0.5, 0.0999**0.5])
    assert rank_of(Svd(energy=energy), weight) == rank


def test_energy_is_of_the_weighted_spectrum_where_activations_weigh():
    weight = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    stats = type(random_stats(4))(torch.diag(torch.tensor([100.0, 1.0, 1.0, 1.0], dtype=torch.float64)))
    assert rank_of(Svd(energy=0.95), weight) == 4
    assert rank_of(Svd(energy=0.95, metric="activation"), weight, stats) == 1


@settings(max_examples=60)
@given(out=st.integers(1, 30), inner=st.integers(1, 30), budget=st.floats(0.01, 1.0))
def test_a_budget_is_used_up_to_the_last_rank_that_fits(out, inner, budget):
    r = rank_of(Svd(budget=budget), torch.zeros(out, inner))
    most = min(out, inner)
    assert r == 1 or r * (out + inner) <= budget * out * inner
    assert r == most or (r + 1) * (out + inner) > budget * out * inner


def test_a_rank_is_clipped_to_what_the_layer_has():
    assert rank_of(Svd(rank=50), torch.randn(4, 9)) == 4


def test_the_rank_is_decided_by_one_option_and_without_any_by_half_the_numbers():
    assert Svd() == Svd(budget=0.5) == Svd(rank=None, energy=None, budget=0.5)
    assert Svd(rank=3).budget is None
    with pytest.raises(ValidationError, match=r"rank = 3, energy = 0.9: each alone decides the rank; give one of"):
        Svd(rank=3, energy=0.9)
    for wrong in ({"rank": 0}, {"energy": 0.0}, {"energy": 1.1}, {"budget": 0.0}):
        with pytest.raises(ValidationError):
            Svd(**wrong)


def test_size_depends_on_the_values_only_where_energy_decides():
    weight = of_spectrum([5.0, 1.0, 0.1])
    assert Svd(energy=0.99).compress(weight, None).bits != Svd(energy=0.99).compress(0 * weight, None).bits
    assert not Svd(energy=0.99).sized_by_shape
    assert not Svd(rank=2, factors={"method": "svd", "energy": 0.5}).sized_by_shape
    assert Svd(rank=2, factors="int1").sized_by_shape


def test_a_study_file_gives_the_compression_of_the_factors_as_a_table():
    table = {"energy": 0.9, "factors": {"method": "intN", "bits": 8}}
    method = Svd(**table)
    assert method.factors == IntN(bits=8)
    dumped = method.model_dump(mode="json")
    assert dumped["factors"]["bits"] == 8
    assert Svd(**{key: value for key, value in dumped.items() if key != "method"}) == method
    small = method.compress(torch.randn(30, 40), None)
    assert isinstance(small.first, CodeWeight)
    r = small.second.shape[0]
    assert small.bits.payload == 8 * r * (30 + 40)
    assert small.bits.scale == 32 * (30 + r)
    assert Svd(factors="int1").factors == Int1()


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"method": "int1", "metric": "activation"}, "'int1' with these options needs statistics"),
        ({"method": "svd", "metric": "activation"}, "'svd' with these options needs statistics"),
        ("int7", "unknown compression of a factor 'int7'; did you mean"),
        ("prune_magnitude", r"unknown compression of a factor 'prune_magnitude'; allowed: (?!.*prune.*\[type)"),
    ],
)
def test_factors_take_no_method_that_needs_statistics_or_prunes_whole_models(factors, said):
    with pytest.raises(ValidationError, match=said):
        Svd(factors=factors)


@pytest.mark.parametrize("method", [Svd(metric="activation"), Svd(energy=0.9), Svd(factors="int1")], ids=str)
def test_fault_14_zero_weights_and_dead_inputs_are_handled(method):
    for stats in (random_stats(12), random_stats(12, dead=5), random_stats(12, dead=12)):
        assert torch.equal(method.compress(torch.zeros(7, 12), stats).dense(), torch.zeros(7, 12))
        assert method.compress(torch.randn(7, 12), stats).dense().isfinite().all()
