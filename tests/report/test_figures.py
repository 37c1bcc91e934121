import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from pipeline.report.figures.accuracy_by_rank import accuracy_by_rank
from pipeline.report.figures.accuracy_by_size import accuracy_by_size
from pipeline.report.figures.contract import NothingToDraw, picture, pictures
from pipeline.report.figures.epochs import epochs
from pipeline.report.figures.history import history
from pipeline.report.figures.importances import importances
from pipeline.report.figures.look import INKS, log_axis, readable_bytes
from pipeline.search.results import read_results

ALL = pytest.mark.parametrize("one", pictures(), ids=lambda one: one.name)


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


@ALL
def test_every_picture_draws_a_finished_study(one, finished):
    drawn = json.loads(one.draw(finished).to_json())
    assert drawn["data"]
    assert drawn["layout"]["title"]["text"]
    assert drawn["layout"]["xaxis"].get("title") or drawn["layout"]["xaxis2"].get("title") or one.name == "epochs"


@ALL
def test_every_picture_says_why_there_is_none_of_a_study_that_has_just_begun(one, store, storage):
    store(watched=("fc1",)).trial(2, "svd", 0.1, TrialState.FAIL, reason="not finite")
    with pytest.raises(NothingToDraw, match=r"no trial has completed|two complete trials, there are none|no spectrum"):
        one.draw(read_results(storage, "digits"))


@ALL
def test_every_picture_but_the_importances_draws_a_single_trial(one, store, storage):
    stored = store(ranks=(2,), inits=("svd",), watched=("fc1",))
    stored.references("val", 0.98, 0.4)
    stored.winner_spectra(2, "svd", stored.trial(2, "svd", 0.9))
    results = read_results(storage, "digits")
    if one.name == "importances":
        with pytest.raises(NothingToDraw, match="need two complete trials, there is one"):
            one.draw(results)
    else:
        assert one.draw(results).to_json()


@ALL
def test_names_are_escaped_in_every_picture(one, hostile):
    drawn = json.loads(one.draw(hostile).to_json())
    shown = json.dumps([drawn["layout"], *({**trace, "offsetgroup": "", "legendgroup": ""} for trace in drawn["data"])])
    assert not re.search("<(b|img|script)[ >]", shown)


def test_a_picture_shows_test_accuracy_only_when_every_winner_is_tested(finished, store, storage):
    assert accuracy_by_rank(finished).layout.yaxis.title.text == "Test accuracy (%)"
    store(combination="late").trial(2, "svd", 0.9)
    later = [*finished, *read_results(storage, "digits")]
    for draw in (accuracy_by_rank, accuracy_by_size):
        assert draw(later).layout.yaxis.title.text.startswith("Validation accuracy (%)")


def test_accuracy_by_rank_has_a_line_a_cell_its_interval_and_references(finished):
    figure = accuracy_by_rank(finished)
    line, seeds = [trace for trace in figure.data if trace.legendgroup == "int1-lora svd"]
    assert line.x == ("2", "8")
    assert line.y[1] == pytest.approx(100 - 97.15)
    assert all(bar > 0 for bar in line.error_y.array + line.error_y.arrayminus)
    assert "test over 2 seeds" in line.hovertext[0]
    assert (seeds.x, seeds.showlegend) == (("2", "8"), False)
    names = [shape.name for shape in figure.layout.shapes]
    assert names == ["original: 98.00%", "only compressed, int1-lora: 41.00%", "only compressed, sparse-lora: 41.30%"]


def test_an_accuracy_of_100_percent_has_a_place_on_the_axis(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.references("val", 1.0, 0.1)
    stored.trial(2, "svd", 1.0)
    axis = accuracy_by_rank(read_results(storage, "digits")).layout.yaxis
    assert axis.range[0] > axis.range[1]
    assert "99.9" in axis.ticktext


def test_accuracy_by_size_has_the_front_and_the_references(finished):
    figure = accuracy_by_size(finished)
    (front,) = traces(figure, "Pareto front of the cells")
    assert list(front.x) == sorted(front.x)
    assert list(front.y) == sorted(front.y, reverse=True)
    assert [trace.x for trace in traces(figure, "original")] == [(940_584,)]
    assert [trace.x for trace in traces(figure, "only compressed, sparse-lora")] == [(120_000,)]
    assert figure.layout.xaxis.type == "log"


def test_inits_and_combinations_look_the_same_in_all_pictures(finished):
    for draw in (accuracy_by_rank, accuracy_by_size, epochs):
        trace = traces(draw(finished), "sparse-lora, svd")[-1]
        assert trace.marker.symbol == "square"
        assert INKS[1] in (trace.marker.color, trace.line.color)
    points = history(finished).data[0]
    assert set(points.marker.color) == set(INKS[:2])


def test_the_epochs_have_a_column_a_rank_and_one_legend_entry_a_line(finished):
    figure = epochs(finished)
    assert [note.text for note in figure.layout.annotations] == ["rank 2", "rank 8"]
    assert len(figure.data) == 8 * 3
    assert sum(bool(trace.showlegend) for trace in figure.data) == 4


def test_importances_leave_out_what_is_fixed_and_say_of_whom_there_are_none(store, storage):
    stored = store(ranks=(2,), inits=("svd",), optimizers=("adam",))
    for step in range(5):
        stored.trial(2, "svd", 0.9 + step / 100)
    store(combination="late").trial(2, "svd", 0.9)
    figure = importances(read_results(storage, "digits"))
    assert {"alpha", "lr"} <= set(figure.data[0].y) <= {"alpha", "lr", "batch_size"}
    assert figure.layout.title.subtitle.text == "None for late: importances need two complete trials, there is one"


def test_importances_of_equal_trials_are_not_made_up(store, storage):
    stored = store()
    for _ in range(3):
        stored.trial(2, "svd", 0.9)
    with pytest.raises(NothingToDraw, match="do not differ enough in accuracy"):
        importances(read_results(storage, "digits"))


def test_a_picture_cannot_take_the_name_of_another():
    with pytest.raises(ValueError, match="registered twice"):
        picture(place=99, title="", says="")(history)


@given(st.lists(st.floats(1e-3, 1e10), min_size=1, max_size=5))
def test_a_logarithmic_axis_has_ticks_within_its_range(values):
    axis = log_axis(values)
    assert 4 <= len(axis["tickvals"]) <= 60
    assert 10 ** axis["range"][0] <= min(values)
    assert 10 ** axis["range"][1] >= max(values)
    assert all(10 ** axis["range"][0] * 0.999 <= tick <= 10 ** axis["range"][1] * 1.001 for tick in axis["tickvals"])


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (58_624, "58.6 kB"), (1_050_000, "1.05 MB"), (4e9, "4 GB")]
)
def test_bytes_are_read_in_decimal_units(count, text):
    assert readable_bytes(count) == text
