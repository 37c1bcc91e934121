import pytest
from optuna.trial import TrialState
from tiny_studies import Mlp, blobs, by_cell, failing, kept_of, make_objective, make_spec, make_task, search

from pipeline.cell import Cell
from pipeline.errors import IntegrityError
from pipeline.results.reading import read_results
from pipeline.run.winners import find_winners, recover, score_winners
from pipeline.task.contract import Task
from pipeline.task.parts import TensorPart


class Counting(TensorPart):
    """Counts how often it is read."""

    def __init__(self, images, labels):
        super().__init__(images, labels)
        self.read = 0

    def batches(self, batch_size, order=None):
        self.read += 1
        return super().batches(batch_size, order)


@pytest.fixture
def counting_task():
    task = make_task()
    assert isinstance(task.model, Mlp)
    task = Task(task.model, train=task.train, val=task.val, test=Counting(*blobs(80, 3)))
    task.test.read = 0
    return task


def prepared(storage, task, **changes):
    spec = make_spec(**changes)
    objective = make_objective(spec, task)
    return spec, objective, search(storage, spec, objective=objective)


def test_published_fault_the_test_part_is_not_read_before_the_search_is_over(storage, counting_task):
    """The test set was used to choose the epoch."""
    prepared(storage, counting_task, trials=4)
    assert counting_task.test.read == 0


def test_the_test_part_is_read_once_for_each_winner_and_not_again(storage, counting_task):
    spec, objective, study = prepared(storage, counting_task)
    score_winners(objective, study, kept_of(spec), 1)
    references, winners = 2, 4
    assert counting_task.test.read == references + winners
    score_winners(objective, study, kept_of(spec), 1)
    assert counting_task.test.read == references + winners


def test_a_grown_budget_reads_it_again_for_changed_winners_alone(storage, counting_task):
    spec, objective, study = prepared(storage, counting_task, trials=4)
    score_winners(objective, study, kept_of(spec), 1)
    before, already = find_winners(study), counting_task.test.read
    spec, objective, study = prepared(storage, counting_task, trials=12)
    score_winners(objective, study, kept_of(spec), 1)
    after = find_winners(study)
    changed = [cell for cell in after if after[cell].number != before[cell].number]
    assert 0 < len(changed) < len(after), "choose a study in which some winners change"
    assert counting_task.test.read == already + len(changed)
    (result,) = read_results(storage, "tiny")
    assert all(cell.test is not None for cell in result.cells)


def test_the_winner_is_the_cells_best_by_validation_and_the_first_of_equals(storage):
    study = search(storage)
    for cell, trial in find_winners(study).items():
        complete = [other for other in by_cell(study.trials)[cell] if other.state == TrialState.COMPLETE]
        best = max(other.value for other in complete)
        assert trial.number == min(other.number for other in complete if other.value == best)


def test_winner_and_epoch_do_not_depend_on_the_test_part(open_database):
    task = make_task()
    images, labels = blobs(80, 3)
    other = Task(task.model, train=task.train, val=task.val, test=(images, (labels + 1) % 4))
    chosen = []
    for place, each in enumerate((task, other)):
        spec, objective, study = prepared(open_database(str(place)), each, trials=4)
        score_winners(objective, study, kept_of(spec), 1)
        winners = find_winners(study)
        chosen.append({cell: (t.params, t.value, t.user_attrs["best_epoch"]) for cell, t in winners.items()})
    assert chosen[0] == chosen[1]


def test_three_seeds_give_three_test_scores_and_their_spread(storage, counting_task):
    spec, objective, study = prepared(storage, counting_task, trials=4, ranks=[2])
    score_winners(objective, study, kept_of(spec), 3)
    (result,) = read_results(storage, "tiny")
    for cell in result.cells:
        assert len({tested.seed for tested in cell.tested}) == 3
        assert cell.tested[0].seed == objective.combination.seed
        assert cell.tested[0].val.accuracy == pytest.approx(cell.best.value)
        mean, deviation = cell.test_spread()
        assert mean == pytest.approx(sum(tested.test.accuracy for tested in cell.tested) / 3)
        assert deviation >= 0
    already = counting_task.test.read
    score_winners(objective, study, kept_of(spec), 3)
    assert counting_task.test.read == already


def test_more_seeds_are_added_to_those_that_are_known(storage, counting_task):
    spec, objective, study = prepared(storage, counting_task, trials=4, ranks=[2], inits=["svd"])
    score_winners(objective, study, kept_of(spec), 1)
    already = counting_task.test.read
    score_winners(objective, study, kept_of(spec), 2)
    assert counting_task.test.read == already + 1


def test_a_kept_adapter_is_the_winners_at_its_best_epoch_and_so_is_one_that_is_trained_again(storage):
    spec = make_spec()
    objective, study = make_objective(spec), search(storage, spec)
    kept = kept_of(spec)
    for cell, trial in find_winners(study).items():
        recovered = recover(objective, kept, trial).parameters
        kept.path(cell).unlink()
        again = recover(objective, kept, trial).parameters
        assert recovered.keys() == again.keys()
        assert all((recovered[name] - again[name]).abs().max() < 1e-5 for name in recovered)


def test_best_of_ranks_takes_the_init_of_higher_validation_accuracy(storage):
    search(storage)
    (result,) = read_results(storage, "tiny")
    for rank, cell in result.best_of_ranks().items():
        values = {
            candidate.cell.init: candidate.best.value for candidate in result.cells if candidate.cell.rank == rank
        }
        assert values[cell.cell.init] == max(values.values())


def has_rank_one(lane):
    return len(lane.parameters["fc1.lora_A"]) == 1


def test_a_cell_without_a_complete_trial_has_no_winner_and_stops_nothing(storage):
    spec = make_spec(trials=4, inits=["svd"])
    objective = failing(make_objective(spec), has_rank_one)
    study = search(storage, spec, objective=objective)
    score_winners(objective, study, kept_of(spec), 1)
    (result,) = read_results(storage, "tiny")
    assert list(result.best_of_ranks()) == [2]
    assert {cell.cell: bool(cell.tested) for cell in result.cells} == {Cell(1, "svd"): False, Cell(2, "svd"): True}


def test_a_seed_that_diverges_in_its_first_epoch_is_noted_and_the_others_are_tested(storage):
    spec, objective, study = prepared(storage, make_task(), trials=4, ranks=[2], inits=["svd"])
    train_epoch = objective.train_epoch

    def diverging_epoch(lanes):
        train_epoch(lanes)
        lanes[0].failure, lanes[0].curve = "the loss is not finite", []

    objective.train_epoch = diverging_epoch
    score_winners(objective, study, kept_of(spec), 3)
    (result,) = read_results(storage, "tiny")
    (cell,) = result.cells
    assert len(cell.tested) == 1
    assert list(cell.failed_seeds.values()) == ["the loss is not finite"] * 2


def test_of_winners_that_are_tested_nothing_is_said(storage, counting_task, said):
    spec, objective, study = prepared(storage, counting_task, trials=4, ranks=[2])
    said.clear()
    for seeds in (1, 1, 2, 2):
        score_winners(objective, study, kept_of(spec), seeds)
    assert said == [
        "int1-lora: testing the winners of 2 cells",
        "int1-lora: testing the winners of 2 cells, and training them again under 1 other seed",
    ]


def test_a_winner_that_cannot_be_tested_is_named_and_the_other_cells_are_tested(storage, said):
    spec, objective, study = prepared(storage, make_task(), trials=4, ranks=[1, 2], inits=["svd"])
    for path in kept_of(spec).folder.iterdir():
        path.unlink()
    failing(objective, has_rank_one)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"rank 1, svd: trial \d+ was trained again, and failed"):
            score_winners(objective, study, kept_of(spec), 1)
        (result,) = read_results(storage, "tiny")
        assert {cell.cell.rank: bool(cell.tested) for cell in result.cells} == {1: False, 2: True}
    assert any("the winner of rank 1, svd cannot be tested" in line for line in said)


def test_the_uncompressed_model_is_scored_once_for_all_combinations_of_a_task(storage, counting_task):
    for name in ("first", "second"):
        spec, objective, study = prepared(storage, counting_task, name=name)
        before = counting_task.test.read
        score_winners(objective, study, kept_of(spec), 1)
        compressed, winners = 1, 4
        assert counting_task.test.read - before == compressed + winners + (name == "first")
