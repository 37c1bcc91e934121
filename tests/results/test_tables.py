import csv
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from stored_studies import BASE_BYTES, EPOCHS

from pipeline.numbers import pareto_front, wilson
from pipeline.results.reading import read_results
from pipeline.results.tables import (
    EpochRow,
    epoch_rows,
    evaluation_rows,
    status_table,
    trial_rows,
    write_csv,
)


def test_the_status_counts_trials_by_state_and_names_the_best(store, storage):
    stored = store()
    stored.trial(2, "svd", 0.9)
    best = stored.trial(2, "svd", 0.93)
    stored.trial(2, "svd", 0.8, TrialState.PRUNED)
    stored.running(2, "svd")
    (combination,) = status_table(read_results(storage, "digits"))
    assert combination["combination"] == "int1-lora"
    cell = next(cell for cell in combination["cells"] if (cell["rank"], cell["init"]) == (2, "svd"))
    assert cell["states"] == {"complete": 2, "pruned": 1, "fail": 0, "running": 1}
    assert (cell["budget"], cell["best"], cell["trial"], cell["tested"], cell["exhausted"]) == (
        4,
        0.93,
        best,
        False,
        False,
    )
    assert json.loads(json.dumps(combination)) == combination


def test_the_status_says_why_a_cell_is_exhausted(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    for reason in ("not finite", "not finite", "not finite", "out of memory"):
        stored.trial(2, "svd", 0.1, TrialState.FAIL, reason=reason)
    (cell,) = status_table(read_results(storage, "digits"))[0]["cells"]
    assert cell["exhausted"]
    assert cell["reasons"] == {"not finite": 3, "out of memory": 1}


def test_a_status_needs_no_torch():
    said = "import sys, pipeline.results.tables; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "False\n"


def test_an_evaluation_has_the_winner_beside_its_references(finished):
    row = next(row for row in evaluation_rows(finished[:1]) if (row["rank"], row["init"]) == (8, "svd"))
    assert row["recovered_val"] == pytest.approx(0.976 - 0.06 / 8 + 0.004)
    assert row["recovered_test"] == pytest.approx(row["recovered_val"] - 0.001, abs=1e-4)
    assert (row["test_low"], row["test_high"]) == wilson(round(row["recovered_test"] * 10_000), 10_000)
    assert (row["original_test"], row["compressed_test"]) == (0.98, 0.41)
    assert (row["original_val"], row["compressed_val"]) == pytest.approx((0.981, 0.42), abs=1e-4)
    assert row["bytes"] == BASE_BYTES + 4 * row["trainable"]
    assert row["best_epoch"] == EPOCHS - 1
    assert row["seeds"] == 2
    assert row["test_mean"] == pytest.approx(row["recovered_test"] - 0.001)
    assert row["test_std"] == pytest.approx(0.002 / 2**0.5)


def test_each_rank_of_a_combination_has_one_checkpoint_chosen_by_validation(finished):
    chosen = [(row["combination"], row["rank"], row["init"]) for row in evaluation_rows(finished) if row["checkpoint"]]
    assert chosen == [(name, rank, "svd") for name in ("int1-lora", "sparse-lora") for rank in (2, 8)]


def test_a_cell_without_a_complete_trial_has_a_row_with_empty_fields(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.references("val", 0.98, 0.4)
    stored.trial(2, "svd", 0.1, TrialState.FAIL, reason="not finite")
    (row,) = evaluation_rows(read_results(storage, "digits"))
    assert (row["original_val"], row["seeds"], row["checkpoint"]) == (0.98, 0, False)
    assert [row[key] for key in ("trial", "alpha", "bytes", "recovered_val", "recovered_test", "test_low")] == [
        None
    ] * 6


def test_every_trial_has_a_row_whatever_its_state(store, storage):
    stored = store()
    stored.trial(2, "svd", 0.9)
    stored.trial(2, "svd", 0.8, TrialState.PRUNED)
    stored.trial(2, "svd", 0.1, TrialState.FAIL, reason="SIGINT", interrupted=True)
    stored.running(8, "svd")
    rows = trial_rows(read_results(storage, "digits"))
    assert [row["state"] for row in rows] == ["complete", "pruned", "fail", "running"]
    assert [row["epochs"] for row in rows] == [EPOCHS, 2, 1, 2]
    assert [row["interrupted"] for row in rows] == [False, False, True, False]
    assert [row["reason"] for row in rows] == [None, None, "SIGINT", None]
    assert [row["value"] for row in rows] == [0.9, None, None, None]


def test_the_epochs_of_each_best_trial_are_listed_once(finished):
    rows = epoch_rows(finished[:1])
    assert len(rows) == 4 * EPOCHS
    assert [row["epoch"] for row in rows[:EPOCHS]] == list(range(1, EPOCHS + 1))
    assert [row["epoch"] for row in rows if row["best"]] == [EPOCHS - 1] * 4
    best = next(row for row in rows if row["best"])
    assert best["val_loss"] == pytest.approx(2.5 * (1 - best["val_accuracy"]), abs=1e-5)


def test_a_table_without_rows_still_names_its_columns(tmp_path):
    write_csv(tmp_path / "epochs.csv", EpochRow, [])
    columns = "study,combination,rank,init,trial,epoch,train_loss,val_loss,val_accuracy,best"
    assert (tmp_path / "epochs.csv").read_text() == f"{columns}\n"


def test_a_table_is_read_back_as_it_was_written(tmp_path, finished):
    rows = epoch_rows(finished)
    write_csv(tmp_path / "epochs.csv", EpochRow, rows)
    with (tmp_path / "epochs.csv").open(newline="") as file:
        assert [float(row["val_loss"]) for row in csv.DictReader(file)] == [row["val_loss"] for row in rows]


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0.1, 0.2, 0.3, 0.4]))))
def test_the_pareto_front_is_what_no_other_point_beats(points):
    def beaten(point):
        return any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in points)

    front = pareto_front(points)
    assert sorted(front) == [place for place, point in enumerate(points) if not beaten(point)]
    assert [points[place] for place in front] == sorted(points[place] for place in front)
