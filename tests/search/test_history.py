import pytest
from optuna.trial import TrialState
from tiny_studies import asks, by_cell, make_spec, outcomes, search

from pipeline.cell import Cell


def test_the_same_study_asks_the_same_twice_and_another_seed_asks_otherwise(open_database):
    first, second = search(open_database("a")), search(open_database("b"))
    assert asks(first) == asks(second)
    assert outcomes(first) == outcomes(second)
    assert asks(first) != asks(search(open_database("c"), make_spec(seed=1)))


def test_a_cell_starts_up_tries_its_neighbours_best_and_goes_on_to_the_sampler(storage):
    study = search(storage, make_spec(trials=9))
    for cell, trials in by_cell(study.trials).items():
        origins = [trial.user_attrs["origin"] for trial in trials]
        assert origins[:3] == ["start-up"] * 3
        assert "start-up" not in origins[3:]
        assert "sampler" in origins
        assert ("neighbour" in origins) == (cell.rank == 1), "the highest rank has no higher neighbour"


@pytest.mark.parametrize("ask_ahead", [2, 4, 6])
def test_start_up_is_as_long_as_it_is_given_whatever_is_asked_ahead(storage, ask_ahead):
    study = search(storage, make_spec(trials=6, ask_ahead=ask_ahead, ranks=[2], inits=["svd"], sampler={"startup": 3}))
    origins = [trial.user_attrs["origin"] for trial in by_cell(study.trials)[Cell(2, "svd")]]
    assert origins == ["start-up"] * 3 + ["sampler"] * 3


def test_a_warm_start_tries_the_higher_ranks_best_values_and_at_most_as_many_as_given(storage):
    study = search(storage, make_spec(trials=9, warm_start=2, inits=["svd"]))
    cells = by_cell(study.trials)
    queued = [trial for trial in cells[Cell(1, "svd")] if trial.user_attrs["origin"] == "neighbour"]
    assert 1 <= len(queued) <= 2
    first_wave = [trial for trial in cells[Cell(2, "svd")][:3] if trial.state == TrialState.COMPLETE]
    best = max(first_wave, key=lambda trial: trial.value)
    own = ("alpha", "optimizer", "lr", "batch_size")
    assert [queued[0].params[key] for key in own] == [best.params[key] for key in own]
    none = search(storage, make_spec(name="none", trials=6, warm_start=0, inits=["svd"]))
    assert "neighbour" not in {trial.user_attrs["origin"] for trial in none.trials}


def test_what_a_cell_asks_depends_on_its_own_and_its_neighbours_history_alone(open_database):
    whole = asks(search(open_database("a")))
    only_svd = asks(search(open_database("b"), make_spec(inits=["svd"])))
    assert only_svd == {cell: whole[cell] for cell in whole if cell.init == "svd"}
    highest = asks(search(open_database("c"), make_spec(ranks=[2])))
    assert highest == {cell: whole[cell] for cell in whole if cell.rank == 2}
