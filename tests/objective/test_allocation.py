import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.compress.contract import LayerStats
from pipeline.compress.spectrum import effective_rank
from pipeline.config.registry import ALLOCATIONS
from pipeline.errors import SpecError
from pipeline.objective.allocation import refuse_budgets, spectrum, spread
from pipeline.objective.allocations.contract import Cost, Layer

WAYS = [allocation.name for allocation in ALLOCATIONS]


@st.composite
def layers(draw):
    """A few layers whose first rank may cost more than the next."""
    made = {}
    for place in range(draw(st.integers(1, 4))):
        values = sorted(draw(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)), reverse=True)
        more = draw(st.integers(1, 20))
        cost = Cost(more + draw(st.integers(0, 30)), more, len(values))
        made[f"fc{place}"] = Layer(cost, torch.tensor(values, dtype=torch.float64), draw(st.floats(1e-3, 1e3)))
    return made


def total(ranks, of):
    return sum(of[name].cost.of(rank) for name, rank in ranks.items())


def full(of):
    return sum(layer.cost.of(layer.cost.most) for layer in of.values())


def spread_or_none(of, by, budget):
    """The ranks of a budget that can afford the first step of its allocation."""
    first, at = ALLOCATIONS.parse(by), [layer.cost.first for layer in of.values()]
    keys = {name: first.keys(layer)[0] for name, layer in of.items()}
    costs = [cost for key, cost in zip(keys.values(), at, strict=True) if key == min(keys.values())]
    least = costs[0] if first.one_by_one else sum(costs)
    return spread(of, first, budget, {}) if budget >= least else None


@pytest.mark.parametrize("by", WAYS)
@settings(deadline=None)
@given(of=layers(), share=st.floats(0, 1))
def test_every_budget_that_pays_for_a_first_rank_is_spread(by, of, share):
    cheapest = min(layer.cost.first for layer in of.values())
    budget = cheapest + int(share * (full(of) - cheapest))
    assert 0 < total(spread(of, ALLOCATIONS.parse(by), budget, {}), of) <= budget
    with pytest.raises(SpecError, match=f"too small.*allowed: {cheapest} to {full(of)}"):
        spread(of, ALLOCATIONS.parse(by), cheapest - 1, {})


@pytest.mark.parametrize("by", WAYS)
@settings(deadline=None)
@given(of=layers(), share=st.floats(0, 1))
def test_no_budget_is_overspent_and_no_layer_takes_more_than_it_can(by, of, share):
    budget = int(share * full(of))
    ranks = spread_or_none(of, by, budget)
    if ranks is not None:
        assert 0 < total(ranks, of) <= budget
        assert all(1 <= rank <= of[name].cost.most for name, rank in ranks.items())


@pytest.mark.parametrize("by", WAYS)
@settings(deadline=None)
@given(of=layers(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_budget_never_takes_a_rank_from_a_layer(by, of, shares):
    less, more = (spread_or_none(of, by, int(share * full(of))) for share in sorted(shares))
    if less is not None:
        assert more is not None
        assert all(more[name] >= rank for name, rank in less.items())


@pytest.mark.parametrize("by", WAYS)
@given(of=layers())
def test_a_budget_of_everything_gives_every_layer_what_it_can_use(by, of):
    assert set(spread(of, ALLOCATIONS.parse(by), full(of), {})) == set(of)
    if by != "energy":
        assert spread(of, ALLOCATIONS.parse(by), full(of), {}) == {name: layer.cost.most for name, layer in of.items()}


@settings(deadline=None)
@given(of=layers(), share=st.floats(0, 1))
def test_by_gain_the_next_rank_of_every_layer_is_worth_less_than_any_that_was_given(of, share):
    ranks = spread_or_none(of, "gain", int(share * full(of)))
    if ranks is None:
        return

    def worth(name, rank):
        layer = of[name]
        each = layer.spectrum.square()[:rank] * layer.sensitivity
        return min(float(gain) / layer.cost.step(place) for place, gain in enumerate(each, 1))

    given_ = min(worth(name, rank) for name, rank in ranks.items())
    left = [worth(name, ranks.get(name, 0) + 1) for name in of if ranks.get(name, 0) < of[name].cost.most]
    assert max(left, default=0) <= given_


@settings(deadline=None)
@given(of=layers(), share=st.floats(0, 1))
def test_by_energy_one_share_of_energy_gives_every_rank_and_no_larger_share_fits(of, share):
    budget = int(share * full(of))
    ranks = spread_or_none(of, "energy", budget)
    shares = {name: (layer.spectrum.square().cumsum(0) / layer.spectrum.square().sum()) for name, layer in of.items()}

    def least(c):
        return {name: int((own < c - 1e-12).sum()) + 1 for name, own in shares.items()}

    choices = sorted({min(1.0, float(c)) for own in shares.values() for c in own})
    assume(all(b - a > 1e-9 or b - a < 1e-13 for a, b in pairwise(choices)))  # else rounding decides which is larger
    fitting = [least(c) for c in choices if total(least(c), of) <= budget]
    assert (fitting[-1] if fitting else None) == ranks


def test_by_effective_rank_ranks_are_in_its_proportion():
    flat, steep = torch.ones(8), torch.tensor([8.0, *[0.0] * 7])
    of = {"flat": Layer(Cost(1, 1, 8), flat), "half": Layer(Cost(1, 1, 8), flat.where(torch.arange(8) < 4, 0)),
          "steep": Layer(Cost(1, 1, 8), steep)}  # fmt: skip
    assert [effective_rank(layer.spectrum) for layer in of.values()] == pytest.approx([8, 4, 1])
    assert spread(of, ALLOCATIONS.parse("effective_rank"), 13, {}) == {"flat": 8, "half": 4, "steep": 1}


def test_what_lost_nothing_gets_no_rank_by_energy_and_none_by_gain_before_what_did():
    of = {"none": Layer(Cost(1, 1, 3), torch.zeros(3)), "some": Layer(Cost(1, 1, 3), torch.ones(3))}
    assert spread(of, ALLOCATIONS.parse("energy"), 6, {}) == {"some": 3}
    assert spread(of, ALLOCATIONS.parse("gain"), 3, {}) == {"some": 3}


@pytest.mark.parametrize(("budget", "said"), [(4, "too small"), (8 * 3 + 6 * 2 + 1, "more than all")])
def test_a_budget_out_of_range_is_an_error_that_says_what_is_allowed(budget, said):
    of = {"a": Layer(Cost(8, 8, 3), torch.ones(3)), "b": Layer(Cost(6, 6, 2), torch.ones(2))}
    with pytest.raises(SpecError, match=rf"budget {budget}, which is {said}.*allowed: 6 to 36"):
        spread(of, ALLOCATIONS.parse("effective_rank"), budget, {})
    with pytest.raises(SpecError, match=r"allowed: 6 to 36"):
        refuse_budgets([20, budget], {name: layer.cost for name, layer in of.items()}, {})


def test_a_spectrum_is_that_of_the_errors_of_a_layers_outputs():
    X, M = torch.randn(500, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    s = spectrum(M, [LayerStats(X.T @ X / 500)])
    assert float(s.square().sum()) == pytest.approx(float((X @ M.T).square().sum() / 500), rel=1e-4)
    best = torch.linalg.svdvals(X @ M.T) / math.sqrt(500)
    torch.testing.assert_close(s, best, rtol=1e-4, atol=1e-6)


def test_the_groups_of_a_convolution_are_weighted_by_their_own_inputs():
    M = torch.randn(4, 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    s = spectrum(M, [LayerStats(eye), LayerStats(4 * eye)])
    torch.testing.assert_close(s, torch.linalg.svdvals(torch.cat([M[:2], 2 * M[2:]])), rtol=1e-4, atol=1e-6)
