import json
import re
from dataclasses import replace

import pytest
from optuna.trial import TrialState
from stored_studies import EPOCHS

from pipeline.numbers import wilson
from pipeline.report.figures.contract import PICTURES, NothingToDraw, Picture, pictures
from pipeline.report.figures.style import DASHES, INKS, alone
from pipeline.report.theme import NEUTRAL
from pipeline.results.reading import read_results
from pipeline.results.tables import epoch_rows

accuracy_by_rank = PICTURES["accuracy_by_rank"]().draw
accuracy_by_size = PICTURES["accuracy_by_size"]().draw
epochs = PICTURES["epochs"]().draw
history = PICTURES["history"]().draw
importances = PICTURES["importances"]().draw
recovery = PICTURES["recovery"]().draw

ALL = pytest.mark.parametrize("one", pictures(), ids=lambda one: one.name)


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


@ALL
def test_every_picture_draws_a_finished_study(one, finished):
    drawn = json.loads(one.draw(finished).to_json())
    assert drawn["data"]
    assert drawn["layout"]["title"]["text"]
    axes = [axis for key, axis in drawn["layout"].items() if key.startswith("xaxis")]
    assert any(axis.get("title") for axis in axes) or one.name == "parallel_coordinates"


@ALL
def test_every_picture_says_why_there_is_none_of_a_study_that_has_just_begun(one, store, storage):
    store(watched=("fc1",)).trial(2, "svd", 0.1, TrialState.FAIL, reason="not finite")
    reasons = r"no trial has completed|two complete trials, there are none|no spectrum|no (sizes|errors) of layers"
    with pytest.raises(NothingToDraw, match=reasons):
        one.draw(read_results(storage, "digits"))


@ALL
def test_every_picture_but_those_that_compare_trials_draws_a_single_trial(one, store, storage):
    stored = store(ranks=(2,), inits=("svd",), watched=("fc1",))
    stored.references("val", 0.98, 0.4)
    stored.layers("fc1")
    number = stored.trial(2, "svd", 0.9)
    stored.winner_spectra(2, "svd", number)
    stored.trained_layers(2, "svd", number, "fc1")
    results = read_results(storage, "digits")
    if one.name in ("importances", "parallel_coordinates"):
        with pytest.raises(NothingToDraw, match=r"need two complete trials, there is one|have the same values"):
            one.draw(results)
    else:
        assert one.draw(results).to_json()


@ALL
def test_names_are_escaped_in_every_picture(one, hostile):
    drawn = json.loads(one.draw(hostile).to_json())
    kept = {"offsetgroup": "", "legendgroup": "", "dimensions": ""}  # no text, and text in which no tags are read
    shown = json.dumps([drawn["layout"], *({**trace, **kept} for trace in drawn["data"])])
    assert not re.search("<(b|img|script)[ >](?![★0-9])", shown)


@ALL
def test_every_picture_leaves_ground_and_text_to_the_theme(one, finished):
    layout = one.draw(finished).layout.to_plotly_json()
    assert layout.pop("template", {}) == {}
    layout.pop("coloraxis", None)  # its colours fill cells that have an ink of their own
    found = json.dumps(layout)
    assert set(re.findall("#[0-9A-Fa-f]{6}", found)) <= {NEUTRAL}
    assert "bgcolor" not in found


@ALL
def test_every_picture_is_the_same_whenever_it_is_drawn(one, finished):
    assert one.draw(finished).to_json() == one.draw(finished).to_json()


def test_a_picture_alone_is_dark_on_white_and_as_high_as_its_place_with_its_legend_beside_it(finished):
    figure = alone(accuracy_by_rank(finished))
    own = figure.layout.template.layout
    assert (own.paper_bgcolor, own.font.color, figure.layout.height) == ("#ffffff", "#1b1b1b", 450)
    assert (figure.layout.legend.orientation, figure.layout.legend.x) == ("v", 1.01)


def test_the_words_of_a_picture_are_those_of_the_studies_shown(finished, store, storage):
    stored = store(ranks=(12_000, 98_000), inits=("svd",))
    facts = stored.study.user_attrs
    search = {**facts["pinned"]["search"], "allocation": {"unit": "bytes", "by": "gain"}}
    stored.study.set_user_attr("pinned", {**facts["pinned"], "search": search})
    stored.study.set_user_attr("task", {**facts["task"], "metric": "agreement"})
    stored.references("val", 0.98, 0.4)
    for budget in (12_000, 98_000):
        stored.trial(budget, "svd", 0.9)
    own = read_results(storage, "digits")
    picture = PICTURES["accuracy_by_rank"]()
    assert picture.worded(finished)[0] == "Accuracy by rank"
    title, reading = picture.worded(own)
    assert title == "Agreement by budget"
    assert not re.search("accuracy|rank|[{}]", reading)
    layout = picture.draw(own).layout
    assert (layout.xaxis.title.text, layout.xaxis.categoryarray) == ("Budget (bytes)", ("12 kB", "98 kB"))
    assert layout.yaxis.title.text == "Validation agreement (%)"
    assert "budget 12 kB, svd" in picture.draw(own).data[0].hovertext[0]


def test_an_adapter_without_ranks_stands_first_and_is_not_called_rank_0(store, storage):
    stored = store(ranks=(0,), inits=("none",))
    stored.references("val", 0.98, 0.4)
    stored.trial(0, "none", 0.9)
    lora = store(combination="lora", ranks=(8,), inits=("svd",))
    lora.references("val", 0.98, 0.4)
    lora.trial(8, "svd", 0.9)
    results = read_results(storage, "digits")
    for draw in (accuracy_by_rank, recovery):
        figure = draw(results)
        assert figure.layout.xaxis.categoryarray == ("-", "8")
        assert "int1-lora, no ranks, trial 0" in figure.data[0].hovertext[0]
        assert "no init" in [trace.name for trace in figure.data]


def test_a_picture_shows_test_accuracy_only_when_every_winner_is_tested(finished, store, storage):
    assert accuracy_by_rank(finished).layout.yaxis.title.text == "Test accuracy (%)"
    assert accuracy_by_rank(finished).layout.title.subtitle.text is None
    store(combination="late").trial(2, "svd", 0.9)
    later = [*finished, *read_results(storage, "digits")]
    for draw in (accuracy_by_rank, accuracy_by_size):
        assert draw(later).layout.yaxis.title.text == "Validation accuracy (%)"
        assert draw(later).layout.title.subtitle.text == "Not every winner is tested yet"


def test_accuracy_by_rank_has_the_mean_over_seeds_with_their_range_and_the_interval_of_one_test(finished):
    figure = accuracy_by_rank(finished)
    line, seeds = [trace for trace in figure.data if trace.offsetgroup == "int1-lora svd"]
    assert line.x == seeds.x == ("2", "8")
    mean, ends = 0.9725 - 0.002, (0.9725 - 0.003, 0.9725 - 0.001)
    assert line.y[1] == seeds.y[1] == pytest.approx(100 - 100 * mean)
    low, high = wilson(round(10_000 * mean), 10_000)
    assert line.error_y.arrayminus[1] == pytest.approx(100 * (high - mean), abs=1e-5)
    assert line.error_y.array[1] == pytest.approx(100 * (mean - low), abs=1e-5)
    assert seeds.error_y.arrayminus[1] == pytest.approx(100 * (ends[1] - mean), abs=1e-5)
    assert seeds.error_y.array[1] == pytest.approx(100 * (mean - ends[0]), abs=1e-5)
    assert seeds.error_y.thickness > line.error_y.thickness
    assert "97.05% of 10,000 images, mean of 2 seeds from 96.95% to 97.15%" in line.hovertext[1]
    names = [shape.name for shape in figure.layout.shapes]
    assert names == ["original: 98.00%", "compressed only, int1-lora: 41.00%", "compressed only, sparse-lora: 41.30%"]


def test_a_cell_with_one_seed_has_no_bar_over_seeds(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.references("test", 0.98, 0.4)
    stored.test(2, "svd", stored.trial(2, "svd", 0.9), 0.89)
    line, *legend = accuracy_by_rank(read_results(storage, "digits")).data
    assert line.error_y.thickness == 1
    assert all(trace.y == (None,) for trace in legend)


def test_studies_of_other_baselines_have_each_its_own_line_and_star(finished):
    first, second = (
        replace(one, label=f"{study}/{one.name}", facts={**one.facts, "hashes": {"weights": study}})
        for one, study in zip(finished, ("a", "b"), strict=True)
    )
    names = [shape.name for shape in accuracy_by_rank([first, second]).layout.shapes]
    assert names[:2] == ["original, digits: 98.00%"] * 2
    assert names[2] == "compressed only, a/int1-lora: 41.00%"
    assert [shape.line.dash for shape in accuracy_by_rank([first, second]).layout.shapes][:2] == list(DASHES[:2])
    stars = traces(accuracy_by_size([first, second]), "original, digits")
    assert [trace.marker.symbol for trace in stars] == ["star", "star-square"]


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
    assert [trace.x for trace in traces(figure, "compressed only, sparse-lora")] == [(120_000,)]
    assert figure.layout.xaxis.type == "log"


def test_trained_codes_and_adapters_are_curves_on_one_axis_of_bytes(store, storage):
    for name, size in (("codes-2", 50_000), ("codes-1", 30_000)):
        stored = store(combination=name, ranks=(0,), inits=("none",), adapter="codes", base_bytes=size)
        stored.references("val", 0.98, 0.4)
        stored.trial(0, "none", 0.9)
    stored = store(combination="lora", ranks=(8, 2), inits=("svd",), base_bytes=30_000)
    stored.references("val", 0.98, 0.4)
    for rank in (8, 2):
        stored.trial(rank, "svd", 0.9 + rank / 1000)
    figure = accuracy_by_size(read_results(storage, "digits"))
    (codes,) = traces(figure, "codes, from size to size")
    assert codes.x == (30_000, 50_000)
    (curve,) = [trace for trace in figure.data if trace.legendgroup == "svd" and trace.showlegend is False]
    assert (curve.mode, len(curve.error_y.array)) == ("lines+markers", 2)
    assert 30_000 < curve.x[0] < curve.x[1]
    legend = {trace.name: trace for trace in figure.data if trace.x == (None,)}
    assert legend["codes-2"].line.color == legend["no init"].line.color == codes.line.color
    assert legend["lora"].line.color == legend["svd"].line.color == curve.line.color
    assert legend["lora"].marker.symbol == curve.marker.symbol


def test_inits_and_combinations_look_the_same_in_all_pictures(finished):
    for draw in (accuracy_by_rank, accuracy_by_size, recovery, epochs, history):
        drawn = [trace for trace in draw(finished).data if trace.showlegend is False and trace.marker.symbol]
        marks = {(trace.legendgroup, trace.marker.symbol) for trace in drawn}
        assert marks == {(init, f"{shape}{fill}") for init, shape in SHAPES.items() for fill in ("", "-open")}
        inks = {(trace.legendgroup, trace.marker.color or trace.line.color) for trace in drawn}
        assert inks == {("paper", INKS[0]), ("svd", INKS[1])}


SHAPES = {"paper": "circle", "svd": "square"}


def test_a_legend_names_each_init_and_each_combination_once(finished):
    for draw in (accuracy_by_rank, recovery, epochs, history):
        named = [trace.name for trace in draw(finished).data if trace.showlegend is not False]
        assert [name for name in named if name != "best so far"] == ["paper", "svd", "int1-lora", "sparse-lora"]
        named = [trace.name for trace in draw(finished[:1]).data if trace.showlegend is not False]
        assert [name for name in named if name != "best so far"] == ["paper", "svd"]


def test_the_epochs_have_a_column_a_rank_and_a_row_a_measure(finished):
    figure = epochs(finished)
    assert [note.text for note in figure.layout.annotations] == ["rank 2", "rank 8"]
    drawn = [trace for trace in figure.data if trace.showlegend is False]
    assert len(drawn) == 8 * 3
    assert {(trace.xaxis, trace.yaxis) for trace in drawn} == {(f"x{n}", f"y{n}") for n in ("", *range(2, 7))}
    row = next(row for row in epoch_rows(finished) if row["best"])
    train, val, accuracy = drawn[:3]
    assert train.y[EPOCHS - 2] == pytest.approx(row["train_loss"])
    assert val.y[EPOCHS - 2] == pytest.approx(row["val_loss"])
    assert accuracy.y[EPOCHS - 2] == pytest.approx(100 * row["val_accuracy"])
    assert [place for place, size in enumerate(accuracy.marker.size) if size] == [EPOCHS - 2]


def test_the_history_has_every_complete_trial_and_the_best_so_far(finished):
    best, *inits = [trace for trace in history(finished[:1]).data if trace.y[0] is not None]
    values = [trial.value for trial in finished[0].study.trials if trial.value is not None]
    assert list(best.customdata) == pytest.approx([max(values[: n + 1]) for n in range(len(values))])
    assert sorted(value for trace in inits for value in trace.customdata) == pytest.approx(sorted(values))
    assert [trace.legendgroup for trace in inits] == ["paper", "svd"]


def test_importances_leave_out_what_is_fixed_and_say_of_whom_there_are_none(store, storage):
    stored = store(ranks=(2,), inits=("svd",), optimizers=("adam",))
    for step in range(5):
        stored.trial(2, "svd", 0.9 + step / 100)
    store(combination="late").trial(2, "svd", 0.9)
    figure = importances(read_results(storage, "digits"))
    assert {"alpha", "lr"} <= set(figure.data[0].y) <= {"alpha", "lr", "batch_size"}
    assert (
        figure.layout.title.subtitle.text
        == "No importances for late: importances need two complete trials, there is one"
    )


def test_importances_of_equal_trials_are_not_made_up(store, storage):
    stored = store()
    for _ in range(3):
        stored.trial(2, "svd", 0.9)
    with pytest.raises(NothingToDraw, match="do not differ enough in accuracy"):
        importances(read_results(storage, "digits"))


def test_a_picture_cannot_take_the_name_of_another():
    with pytest.raises(ValueError, match="registered twice"):
        PICTURES.register("heat_map")(Picture)
