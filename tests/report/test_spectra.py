import pytest
from stored_studies import EPOCHS, course

from pipeline.paths import winner_spectra
from pipeline.report.figures.animation import FLOOR, draw_courses
from pipeline.report.figures.contract import PICTURES, NotAskedFor
from pipeline.results.reading import read_results

spectra = PICTURES["spectra"]().draw


def visible(figure):
    return [trace for trace in figure.data if trace.visible is True]


def test_the_picture_has_one_frame_an_epoch_of_the_longest_training_and_a_step_of_the_slider_for_each(finished):
    figure = spectra(finished)
    assert [frame.name for frame in figure.frames] == [str(epoch) for epoch in range(11)]
    assert [step.args[0] for step in figure.layout.sliders[0].steps] == [(frame.name,) for frame in figure.frames]


def test_a_frame_moves_spectra_and_marks_and_a_shorter_training_stays_at_its_last_epoch(finished):
    figure = spectra(finished)
    last, ended = figure.frames[-1], figure.frames[EPOCHS]
    assert len(last.data) == len(last.traces) == 2 * (len(figure.data) - 2) / 3
    baseline, product = course("W", "fc1", 10), last.traces.index(3 * 2)
    assert last.data[0].y == baseline.shares[10]
    assert (last.data[1].x, last.data[1].y) == ((10,), (baseline.effective_rank[10],))
    assert last.data[product].y == ended.data[product].y
    assert last.data[product + 1].x == (EPOCHS,)


def test_a_product_that_begins_at_zero_has_no_line_on_the_logarithmic_axis(finished):
    figure = spectra(finished)
    assert set(figure.data[3 * 2].y) == {None}
    assert all(figure.frames[1].data[2 * 2].y)


def test_the_menu_shows_one_winner_at_a_time_beside_the_baseline_the_best_first(finished):
    figure = spectra(finished)
    menu = figure.layout.updatemenus[1]
    assert len(menu.buttons) == 8
    assert menu.buttons[0].label == "sparse-lora, rank 8, svd"
    baseline, winner, legend = 3 * 2, 3 * 4, 2
    shown = [sum(button.args[0]["visible"]) for button in menu.buttons]
    assert shown == [baseline + winner + legend] * 8
    assert len({tuple(button.args[0]["visible"]) for button in menu.buttons}) == 8
    assert len(visible(figure)) == baseline + winner


def test_the_axis_of_shares_stands_still_around_all_epochs(finished):
    figure = spectra(finished)
    low, high = figure.layout.yaxis.range
    shares = [share for frame in figure.frames for data in frame.data[::2] for share in data.y if share]
    assert 10**low <= min(shares)
    assert max(shares) <= 10**high


def test_rounded_zeros_do_not_stretch_the_axis():
    own = course("W", "fc1", 1)
    flat = own.model_copy(update={"shares": ((0.5, 0.5, 1e-17), (0.9, 0.1, 0.0))})
    assert draw_courses([flat], {}).layout.yaxis.range[0] >= -6
    assert FLOOR == 1e-6


def test_a_record_that_is_missing_or_damaged_is_named_under_the_title(store, storage):
    stored = store(ranks=(2,), watched=("fc1",))
    numbers = {init: stored.trial(2, init, 0.9) for init in ("paper", "svd")}
    for init, number in numbers.items():
        stored.winner_spectra(2, init, number)
    path = winner_spectra("digits", "int1-lora", 2, "svd")
    path.write_bytes(path.read_bytes()[:-30])
    subtitle = spectra(read_results(storage, "digits")).layout.title.subtitle.text
    assert subtitle == "Not recorded: the baseline; int1-lora, rank 2, svd"


def test_a_baseline_that_was_loaded_and_not_trained_is_not_missed(store, storage):
    stored = store(ranks=(2,), inits=("svd",), watched=("fc1",))
    stored.winner_spectra(2, "svd", stored.trial(2, "svd", 0.9))
    stored.study.set_user_attr("task", {**stored.study.user_attrs["task"], "baseline": None})
    assert spectra(read_results(storage, "digits")).layout.title.subtitle.text is None


def test_a_record_of_another_trial_is_not_drawn(store, storage):
    stored = store(ranks=(2,), inits=("svd",), watched=("fc1",))
    stored.baseline_spectra()
    stored.winner_spectra(2, "svd", stored.trial(2, "svd", 0.8))
    stored.trial(2, "svd", 0.9)
    figure = spectra(read_results(storage, "digits"))
    assert figure.layout.title.subtitle.text == "Not recorded: int1-lora, rank 2, svd"
    assert len(figure.data) == 3 + 1


def test_a_study_that_names_no_layers_has_no_such_picture(store, storage):
    store().trial(2, "svd", 0.9)
    with pytest.raises(NotAskedFor):
        spectra(read_results(storage, "digits"))
