import math

import pytest

from pipeline.train.loop import Recipe
from pipeline.train.schedules.constant import Constant
from pipeline.train.schedules.cosine import Cosine


def rates(recipe: Recipe, steps: int, lr: float = 0.5) -> list[float]:
    return [recipe.rate(lr, step, steps) for step in range(recipe.epochs * steps)]


def test_a_constant_rate_is_the_peak_at_every_step():
    assert rates(Recipe(epochs=3), 4) == [0.5] * 12


def test_a_cosine_is_half_a_period_from_the_peak_to_just_above_zero():
    expected = [0.25 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert rates(Recipe(epochs=3, schedule=Cosine()), 4) == pytest.approx(expected, abs=1e-15)
    assert expected[0] == 0.5
    assert expected[-1] > 0


@pytest.mark.parametrize("schedule", [Constant(), Cosine()], ids=["constant", "cosine"])
def test_a_warm_up_rises_by_equal_steps_to_the_peak_and_the_schedule_starts_there(schedule):
    warm = rates(Recipe(epochs=3, schedule=schedule, warmup=1.5), 4)
    assert warm[:7] == pytest.approx([0.5 * step / 7 for step in range(1, 8)])
    assert max(warm) == warm[6] == 0.5
    if schedule == Constant():
        assert warm[6:] == [0.5] * 6
    else:
        assert warm[6:] == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 6)) for step in range(6)])


def test_a_warm_up_shorter_than_half_a_step_is_none():
    assert rates(Recipe(epochs=1, warmup=0.1), 4) == [0.5] * 4


@pytest.mark.parametrize("schedule", [Constant(), Cosine()], ids=["constant", "cosine"])
def test_a_warm_up_of_the_whole_training_never_falls(schedule):
    warm = rates(Recipe(epochs=2, schedule=schedule, warmup=2), 3)
    assert warm == sorted(warm)
    assert 0 < warm[0] < warm[-1] < 0.5


@pytest.mark.parametrize("recipe", [Recipe(4), Recipe(4, Cosine()), Recipe(4, Cosine(), 1.0)])
def test_lanes_differ_in_their_peak_alone(recipe):
    assert rates(recipe, 5, 0.25) == pytest.approx([rate / 2 for rate in rates(recipe, 5, 0.5)])
