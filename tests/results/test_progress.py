import pytest
from stopping import StopAfter
from tiny_studies import make_objective, make_spec, search

from pipeline.guard import StopTraining
from pipeline.results.progress import CellProgress, Progress, progress_of
from pipeline.results.study_state import read_status


def counts(progress):
    return [(cell.complete, cell.pruned, cell.failed, cell.running) for cell in progress.cells]


def test_a_row_a_cell_is_shown_before_and_after_every_epoch(storage):
    shown = []
    search(storage, shown=shown)
    first, begun, *_, last = shown
    assert counts(first) == [(0, 0, 0, 0)] * 4
    assert counts(begun) == [(0, 0, 0, 3)] * 4, "a wave, before its first epoch"
    assert {cell.epoch for cell in begun.cells} == {0}
    assert max(progress.epoch for progress in shown) == 2, "after the third epoch none runs"
    assert (last.done, last.budget, last.left, last.running) == (24, 24, 0, 0)
    assert [progress.done for progress in shown] == sorted(progress.done for progress in shown)
    assert last.best == max(cell.best for cell in last.cells)


def test_what_is_shown_last_is_what_is_stored(storage):
    shown = []
    search(storage, shown=shown)
    (stored,) = read_status(str(storage.engine.url), "tiny", with_reasons=False)
    assert progress_of(stored) == shown[-1]


def test_a_study_that_goes_on_starts_from_what_is_stored_failures_too(storage):
    objective = make_objective()
    train_epoch = objective.train_epoch

    def failing(lanes):
        train_epoch(lanes)
        lanes[0].failure = "the test said so"

    objective.train_epoch = failing
    with pytest.raises(StopTraining):
        search(storage, objective=objective, guard=StopAfter(60))
    (stored,) = read_status(str(storage.engine.url), "tiny", with_reasons=False)
    before, shown = progress_of(stored), []
    assert before.failed
    assert before.left
    search(storage, shown=shown)
    assert shown[0] == before


def test_a_study_that_is_done_is_shown_once(storage):
    search(storage)
    shown = []
    search(storage, make_spec(), shown=shown)
    assert [progress.left for progress in shown] == [0]


@pytest.mark.parametrize(
    ("states", "left"),
    [((0, 0, 0), 4), ((2, 1, 3), 1), ((2, 2, 0), 0), ((1, 0, 4), 0), ((3, 2, 0), 0)],
    ids=["new", "begun", "met", "exhausted", "a budget that shrank"],
)
def test_what_is_left_is_what_the_search_will_ask_for(states, left):
    complete, pruned, failed = states
    assert CellProgress(2, "svd", 4, complete, pruned, failed).left == left


def test_running_trials_count_for_the_part_that_they_have_behind_them():
    cells = (CellProgress(2, "svd", 4, running=3, epoch=2), CellProgress(4, "svd", 4, running=1, epoch=4))
    assert Progress(cells, epochs=8).parts == pytest.approx(3 * 2 / 8 + 4 / 8)
