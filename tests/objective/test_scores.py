import math

import pytest
import torch
from optuna.trial import TrialState
from stopping import StopAfter
from tiny_studies import SEARCH, adapted, asks, make_objective, make_spec, make_task, measure, outcomes, search

from pipeline.cell import Cell
from pipeline.guard import StopTraining
from pipeline.objective.scores import CellScore, ranked, score_cells
from pipeline.space import cells, middle

MIDDLE = {"alpha": math.sqrt(8), "optimizer": "adam", "lr": 1e-2, "batch_size": 16}


def start_of(objective, cell):
    values = middle(cell, objective.combination.search, objective.combination.adapter)
    return adapted(objective, objective.lane(values).parameters, values.alpha)


def test_the_middle_of_a_log_range_is_its_geometric_mean_and_of_choices_the_first():
    objective = make_objective(make_spec(alpha={"low": 2, "high": 4}))
    values = middle(Cell(2, "svd"), objective.combination.search, objective.combination.adapter)
    assert values.params() == {"rank": 2, "init": "svd", **MIDDLE, "alpha": 3.0, "lr": pytest.approx(1e-2)}
    fixed = make_objective(make_spec(lr={"low": 0.1, "high": 0.1, "log": True}))
    assert middle(Cell(2, "svd"), fixed.combination.search, fixed.combination.adapter).lr == 0.1


def test_the_accuracy_of_a_cell_is_that_of_its_whole_model_at_its_start():
    objective = make_objective()
    for score in score_cells(objective):
        correct, images = measure(start_of(objective, score.cell), objective.combination.task.val)
        assert (score.accuracy, score.images) == (correct / images, images)


def test_the_output_error_of_a_cell_is_that_of_its_layers_on_the_inputs_of_the_uncompressed_ones():
    objective, task = make_objective(), make_task()
    x1 = task.train.images
    x2 = torch.relu(task.model.fc1(x1))
    for score in score_cells(objective):
        own = start_of(objective, score.cell)
        with torch.no_grad():
            pairs = [(task.model.fc1(x1), own.fc1(x1)), (task.model.fc2(x2), own.fc2(x2))]
            errors = [float((y - other).square().sum() / y.square().sum()) for y, other in pairs]
        assert score.output_error == pytest.approx(sum(errors) / 2, abs=1e-5)


def test_a_higher_rank_of_the_residual_leaves_less_error_and_the_papers_start_leaves_it_all():
    scores = {score.cell: score.output_error for score in score_cells(make_objective(make_spec(ranks=[1, 2, 4])))}
    assert scores[Cell(4, "svd")] < scores[Cell(2, "svd")] < scores[Cell(1, "svd")] < scores[Cell(1, "paper")]
    assert scores[Cell(1, "paper")] == scores[Cell(4, "paper")]


def test_a_sample_is_a_part_of_the_validation_part_and_the_same_each_time():
    objective = make_objective()
    few = score_cells(objective, images=20)
    assert {score.images for score in few} == {20}
    assert few == score_cells(make_objective(), images=20)
    assert [score.accuracy for score in few] != [score.accuracy for score in score_cells(objective)]


def test_an_adapter_without_ranks_has_no_scores():
    assert score_cells(make_objective(make_spec(combination={"adapter": "full"}))) == []


def test_the_best_have_the_highest_accuracy_then_the_lowest_error_then_come_first():
    table = {(1, "a"): (0.5, 0.5), (1, "b"): (0.1, 0.6), (2, "a"): (0.2, 0.5), (2, "b"): (0.2, 0.5)}
    scores = [CellScore(Cell(*cell), error, accuracy, 10) for cell, (error, accuracy) in table.items()]
    assert [score.cell for score in ranked(scores)] == [Cell(1, "b"), Cell(2, "a"), Cell(2, "b"), Cell(1, "a")]


def test_the_best_scored_cells_begin_with_the_middle_and_no_other_does(storage):
    spec = make_spec(queued=2)
    study = search(storage, spec)
    best = [score.cell for score in ranked(score_cells(make_objective(spec)))[:2]]
    for cell, own in asks(study).items():
        origins = [origin for origin, _ in own]
        assert origins.count("score") == (cell in best)
        if cell in best:
            assert origins[:3] == ["score", "start-up", "start-up"]
            params = {name: own[0][1][name] for name in MIDDLE}
            assert params == {**MIDDLE, "lr": pytest.approx(1e-2)}
        counted = [trial for trial in study.trials if trial.params["rank"] == cell.rank]
        assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in counted)
        assert len(own) == SEARCH["trials"]


def test_a_study_with_nothing_queued_scores_nothing(storage, monkeypatch):
    monkeypatch.setattr("pipeline.search.coordinator.score_cells", None)
    study = search(storage, make_spec(trials=3, sampler={"startup": 2}))
    assert "score" not in {trial.user_attrs["origin"] for trial in study.trials}


@pytest.mark.parametrize("batches", [0, 3, 40, 80])
def test_a_study_that_was_stopped_goes_on_with_the_same_asks(open_database, batches):
    spec = make_spec(queued=2, batch_size=[16])
    expected = search(open_database("whole"), spec)
    storage = open_database("stopped")
    with pytest.raises(StopTraining):
        search(storage, spec, guard=StopAfter(batches))
    study = search(storage, spec)
    assert asks(study) == asks(expected)
    assert outcomes(study) == outcomes(expected)


def test_scores_are_measured_only_while_some_cell_has_not_begun(storage, monkeypatch):
    spec = make_spec(queued=1)
    with pytest.raises(StopTraining):
        search(storage, spec, guard=StopAfter(80))
    assert len({(trial.params["rank"], trial.params["init"]) for trial in storage.get_all_trials(1)}) == len(
        cells(spec.search)
    )
    monkeypatch.setattr("pipeline.search.coordinator.score_cells", None)
    search(storage, spec)
