import math

import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import create_trial
from tiny_studies import make_search

from pipeline.config.registry import PRUNERS
from pipeline.search.pruners.halving import Halving, HalvingPruner

ACCURACIES = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=12)


def kept(accuracies, step=1, direction="maximize", **options):
    """Which trials of a wave that reports together go on."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, pruner = optuna.create_study(direction=direction), HalvingPruner(**options)
    for accuracy in accuracies:
        study.add_trial(create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values={step: accuracy}))
    return [place for place, trial in enumerate(study.trials) if not pruner.prune(study, trial)]


@given(ACCURACIES, st.integers(2, 4))
def test_of_a_wave_the_best_share_goes_on_and_only_ties_with_it(accuracies, factor):
    going = [accuracies[place] for place in kept(accuracies, factor=factor)]
    share = sorted(accuracies, reverse=True)[: math.ceil(len(accuracies) / factor)]
    assert sorted(going, reverse=True)[: len(share)] == share
    assert set(going) == set(share)


@given(ACCURACIES)
def test_the_best_always_goes_on_whichever_way_is_better(accuracies):
    assert accuracies.index(max(accuracies)) in kept(accuracies)
    assert accuracies.index(min(accuracies)) in kept(accuracies, direction="minimize")


def test_decisions_fall_at_the_rungs_alone():
    falling = [0.9, 0.5, 0.1]
    pruned_at = [step for step in range(1, 20) if len(kept(falling, step, first=2, factor=3)) < 3]
    assert pruned_at == [2, 6, 18]


def test_who_has_not_reported_yet_is_not_pruned():
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(state=optuna.trial.TrialState.RUNNING))
    assert not HalvingPruner().prune(study, study.trials[0])


def test_each_name_of_a_study_file_is_the_pruner_it_says():
    made = {name: PRUNERS.parse(name).build(startup=2) for name in ("halving", "median", "none")}
    assert {name: type(pruner).__name__ for name, pruner in made.items()} == {
        "halving": "HalvingPruner",
        "median": "MedianPruner",
        "none": "NopPruner",
    }


def test_halving_is_expected_to_train_each_wave_of_a_cell_down_to_its_best():
    startup = {"method": "tpe", "startup": 9}
    # The start-up has 9 trials for 1 epoch, 3 of them for 2 more, 1 of those for 6 more; the last wave has 2 trials.
    search = make_search(epochs=9, trials=11, ask_ahead=9, sampler=startup)
    assert Halving().expected_epochs(search) == (9 * 1 + 3 * 2 + 1 * 6) + (2 * 1 + 1 * 8)


def test_the_median_is_expected_to_end_every_other_trial_after_the_start_up():
    search = make_search(epochs=9, trials=13, sampler={"method": "tpe", "startup": 3}, pruner="median")
    assert search.pruner.expected_epochs(search) == 3 * 9 + 5 * 9 + 5 * 1
