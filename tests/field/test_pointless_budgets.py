"""Budgets that cannot do what they say: pruners that can end no trial, and spaces with few different values."""

import itertools
import random

import optuna
import pytest
from command import invoke, write_study
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from tiny_studies import by_cell, make_search, make_spec, search

from pipeline.adapt.methods.full import Full
from pipeline.adapt.methods.lora import Lora
from pipeline.adapt.methods.no_adapter import NoAdapter
from pipeline.cell import Cell
from pipeline.config.search_spec import SearchSpec
from pipeline.search.budget import search_notes, waves
from pipeline.search.history import History
from pipeline.space import cell_space, fitted, points

CELL = Cell(2, "svd")
RANDOM = {"method": "random", "startup": 3}
FIXED = {"alpha": 4.0, "lr": 1e-2, "optimizer": ["adam"], "batch_size": [16]}
"""Changes of a study that leave a cell one set of values."""


def simulated(asked: SearchSpec, seed: int = 0, failing: float = 0.0, adapter=None) -> History:
    """A cell's history after its search, where trials give random accuracies in place of training."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chance, adapter = random.Random(seed), adapter or Lora()
    trained = fitted(asked, adapter)
    history = History(CELL, trained, cell_space(trained, adapter), seed, None)
    while asks := history.ask(None, {}):
        running = [ask.number for ask in asks]
        for epoch in range(1, trained.epochs + 1):
            for number in running:
                history.report(number, epoch, chance.random())
            for number in list(running):
                state = None
                if chance.random() < failing:
                    state = TrialState.FAIL
                elif epoch == trained.epochs:
                    state = TrialState.COMPLETE
                elif history.should_prune(number):
                    state = TrialState.PRUNED
                if state is not None:
                    history.tell(number, state, chance.random())
                    running.remove(number)
    return history


@pytest.mark.parametrize(
    ("pruner", "epochs", "trials", "ask_ahead", "startup"),
    [
        ({"method": method, "first": first}, *rest)
        for method in ("halving", "median")
        for first, *rest in itertools.product((1, 3), (1, 3, 4), (1, 3, 6), (1, 3), (1, 3))
    ],
)
def test_a_pruner_says_that_it_is_idle_exactly_where_it_never_ends_a_trial(pruner, epochs, trials, ask_ahead, startup):
    sampler = {"method": "random", "startup": startup}
    asked = make_search(epochs=epochs, trials=trials, ask_ahead=ask_ahead, sampler=sampler, pruner=pruner)
    notes = search_notes(asked, Lora())
    searches = range(3 if notes else 40)
    assert any(simulated(asked, seed).told.states["pruned"] for seed in searches) == (not notes)
    for note in notes:
        assert pruner["method"] in note
        assert any(
            f"search.{key}" in note for key in ("pruner.first", "ask_ahead", "trials", "epochs", "sampler.startup")
        )


def test_nothing_is_said_of_no_pruner_and_of_an_adapter_that_trains_nothing():
    assert search_notes(make_search(pruner="none", ask_ahead=1), Lora()) == []
    assert search_notes(make_search(ask_ahead=1, epochs=1), NoAdapter()) == []


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9))
def test_the_waves_that_estimates_go_by_are_those_that_a_cell_asks_for(trials, ask_ahead, startup, seed):
    asked = make_search(
        trials=trials, ask_ahead=ask_ahead, sampler={"method": "random", "startup": startup}, pruner="none"
    )
    sizes, history = [], History(CELL, asked, cell_space(asked, Lora()), seed, None)
    while asks := history.ask(None, {}):
        sizes.append(len(asks))
        for ask in asks:
            history.tell(ask.number, TrialState.COMPLETE, 0.5)
    assert sizes == waves(asked)


CHOICES = {
    "all fixed": ({}, 1),
    "one choice of two": ({"optimizer": ["adam", "sgd"]}, 2),
    "choices of two parameters": ({"optimizer": ["adam", "sgd", "rmsprop"], "batch_size": [8, 16]}, 6),
    "a range of no width": ({"lr": {"low": 0.3, "high": 0.3, "log": True}}, 1),
}
EACH_SPACE = pytest.mark.parametrize(("changes", "different"), CHOICES.values(), ids=CHOICES)


@EACH_SPACE
@pytest.mark.parametrize("sampler", [RANDOM, {"method": "tpe", "startup": 3}], ids=["random", "tpe"])
@pytest.mark.parametrize("trials", [4, 5, 12])
@pytest.mark.parametrize("adapter", [Lora(), Full()], ids=["lora", "full"])
def test_values_are_tried_once_and_a_cell_ends_when_no_other_is_left(changes, different, sampler, trials, adapter):
    asked = make_search(**FIXED | changes, sampler=sampler, trials=trials, pruner="none")
    tried = [trial.params for trial in simulated(asked, adapter=adapter).study.trials]
    assert len(tried) == min(different, trials)
    assert all(params not in tried[:i] for i, params in enumerate(tried))
    notes = search_notes(asked, adapter)
    assert notes == [] if different >= trials else f"{different} different trial" in notes[0]
    assert all(f"for a budget of {trials}" in note for note in notes)


@EACH_SPACE
@pytest.mark.parametrize("seed", range(5))
def test_a_cell_of_few_values_ends_although_trials_fail_and_failed_values_are_tried_again(changes, different, seed):
    asked = make_search(**FIXED | changes, sampler=RANDOM, trials=12, pruner="none")
    history = simulated(asked, seed, failing=0.2)
    done = [trial.params for trial in history.study.trials if trial.state == TrialState.COMPLETE]
    assert len(done) == different or history.told.exhausted(different)
    assert all(params not in done[:i] for i, params in enumerate(done))


def test_a_space_with_a_range_is_asked_as_it_always_was():
    asked = make_search(trials=12)
    assert fitted(asked, Lora()).trials == 12
    assert points(cell_space(asked, Lora())) is None


def test_the_first_asks_of_a_small_space_are_those_of_the_sampler():
    """Until the sampler repeats itself, nothing takes the place of what it chose."""
    asked = make_search(**FIXED | CHOICES["choices of two parameters"][0], sampler=RANDOM, trials=6, pruner="none")
    for seed in range(4):
        history, own = simulated(asked, seed), []
        for trial in history.study.trials:
            study = optuna.create_study(sampler=None)
            study.sampler = asked.sampler.build(_seed_of_ask(seed, trial.number))
            own.append(study.ask(cell_space(asked, Lora())).params)
        new = next((i for i, params in enumerate(own) if params in own[:i]), len(own))
        assert [trial.params for trial in history.study.trials][:new] == own[:new]


def _seed_of_ask(seed: int, number: int) -> int:
    from pipeline.seeds import derive

    return derive(seed, CELL, "ask", number)


def test_a_study_of_two_different_trials_trains_two_and_is_done(storage):
    spec = make_spec(**FIXED | {"optimizer": ["adam", "sgd"]}, trials=12, pruner="none", ranks=[1, 2])
    stored = search(storage, spec)
    for trials in by_cell(stored.trials).values():
        assert {trial.params["optimizer"] for trial in trials} == {"adam", "sgd"}
        assert len(trials) == 2
    assert len(search(storage, spec).trials) == len(stored.trials), "running again adds nothing"


def test_a_neighbours_values_are_no_repeats(storage):
    spec = make_spec(**FIXED | {"batch_size": [8, 16, 32]}, trials=6, sampler={"method": "tpe", "startup": 1})
    for trials in by_cell(search(storage, spec).trials).values():
        assert sorted(trial.params["batch_size"] for trial in trials) == [8, 16, 32]


def test_check_plan_and_run_say_what_a_search_cannot_do():
    path = write_study(trials=6, epochs=2)
    text = path.read_text().replace('optimizer = ["adam"]', 'optimizer = ["adam", "sgd"]')
    text = text.replace("lr = { low = 1e-3, high = 1e-2, log = true }", "lr = 1e-2")
    path.write_text(text.replace("ask_ahead = 2", "ask_ahead = 1").replace('"none"', '"halving"'))
    said = {verb: invoke(verb, "tiny") for verb in ("check", "plan", "run")}
    for done in said.values():
        assert done.exit_code == 0
        words = " ".join((done.stdout + done.stderr).split())
        assert "2 different trials for a budget of" in words
        assert "can end no trial early" in words
