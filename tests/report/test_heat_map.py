import math

import pytest
from optuna.trial import TrialState

from pipeline.report.figures.contract import PICTURES
from pipeline.results.reading import read_results

heat_map = PICTURES["heat_map"]().draw


def test_every_cell_has_its_accuracy_and_the_checkpoint_of_each_rank_and_the_best_are_marked(finished):
    cells, texts = heat_map(finished).data[:2]
    assert (cells.x, cells.y) == (("2", "8"), ("paper", "svd"))
    said = {(rank, init): text for rank, init, text in zip(texts.x, texts.y, texts.text, strict=True)}
    assert (said["2", "paper"], said["8", "paper"]) == ("94.40", "96.65")
    assert (said["2", "svd"], said["8", "svd"]) == ("<b>94.80</b>", "★ <b>97.05</b>")
    assert cells.z[1][1] == pytest.approx(-math.log10(100 - 97.05), abs=1e-5)
    assert "97.05% of 10,000 images" in cells.hovertext[1][1]


def test_all_panels_share_one_scale(finished):
    figure = heat_map(finished)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [trace.coloraxis for trace in maps] == ["coloraxis"] * 2
    values = [value for trace in maps for line in trace.z for value in line]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (min(values), max(values))
    assert [note.text for note in figure.layout.annotations] == ["int1-lora", "sparse-lora"]


def test_a_cell_without_a_complete_trial_is_empty_and_says_how_far_it_is(store, storage):
    stored = store()
    stored.references("val", 0.98, 0.4)
    stored.trial(2, "svd", 0.9)
    stored.trial(8, "svd", 0.1, TrialState.FAIL, reason="not finite")
    stored.running(8, "svd")
    cells, texts, empty = heat_map(read_results(storage, "digits")).data
    assert [list(line) for line in cells.z] == [[None, None], [-1, None]]
    assert list(texts.text) == ["★ <b>90.00</b>"]
    said = dict(zip(zip(empty.x, empty.y, strict=True), empty.hovertext, strict=True))
    assert said["8", "svd"] == "int1-lora, rank 8, svd<br>no complete trial yet; budget 4: 1 fail, 1 running"
    assert said["2", "paper"] == "int1-lora, rank 2, paper<br>no complete trial yet; budget 4: no trial has begun"


def test_one_accuracy_has_no_scale(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.references("val", 0.98, 0.4)
    stored.trial(2, "svd", 0.9)
    assert heat_map(read_results(storage, "digits")).layout.coloraxis.showscale is False
