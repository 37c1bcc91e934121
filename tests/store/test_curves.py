import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from optuna.trial import TrialState

from pipeline.store.curves import draw_curves

ACCURACIES = [0.6, 0.8, 0.9, 0.94, 0.945, 0.943]
LOSSES = [2.3, 1.4, 0.9, 0.5, 0.4, 0.35]


def draw(accuracies=ACCURACIES, train=LOSSES, val=LOSSES, best=5, title="tiny/int1-lora, trial 3", metric="accuracy"):
    attributes = {"train_loss": train, "val_loss": val, "best_epoch": best}
    return draw_curves(title, f"validation {metric}", accuracies, attributes, TrialState.COMPLETE)


def texts(picture):
    return [element.text for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]


def numbers(path):
    return [tuple(map(float, point.split())) for point in re.findall(r"[\d.]+ [\d.]+", path)]


def curves(picture, kind):
    found = [each.get("d") for each in ElementTree.fromstring(picture).iter() if each.get("class") == kind]
    return [numbers(path) for path in found if "h32" not in path]


def test_it_says_which_trial_what_came_of_it_and_names_both_axes():
    said = texts(draw())
    assert {"tiny/int1-lora, trial 3", "complete: best 94.50% in epoch 5 of 6", "validation accuracy (%)"} <= set(said)
    assert {"epoch", "loss:", "training", "validation"} <= set(said)
    assert [text for text in said if text.isdigit() and int(text) <= 6][-6:] == ["1", "2", "3", "4", "5", "6"]


def test_curves_go_through_the_epochs_from_left_to_right_and_accuracy_rises_as_it_does():
    accuracy, loss = curves(draw(), "v")
    assert [x for x, _ in accuracy] == sorted(x for x, _ in loss) == [62, 142, 222, 302, 382, 462]
    heights = [-y for _, y in accuracy]
    assert sorted(heights) == sorted(heights, key=lambda h: ACCURACIES[heights.index(h)])
    assert max(y for _, y in accuracy) < min(y for _, y in loss), "one panel is above the other"


def test_training_is_told_from_validation_without_colour():
    assert re.search(r"\.r\{[^}]*stroke-dasharray", draw())


def test_it_follows_the_reader_from_light_to_dark_and_has_a_ground_of_its_own():
    picture = draw()
    assert "prefers-color-scheme:dark" in picture
    assert 'class="b"' in picture


def test_it_runs_nothing_and_loads_nothing():
    picture = draw(title='<script>alert(1)</script>"&', metric="]]><img src=x>")
    ElementTree.fromstring(picture)
    assert not re.search(r"<script|<img|<foreignObject|href|url\(|@import|\son\w+=", picture)
    assert picture.count("http") == 1, "the name space of SVG alone"


def test_ten_epochs_take_two_to_three_kilobytes_and_a_hundred_no_more_than_five():
    assert 1500 < len(draw([0.9] * 10, [0.1] * 10, [0.2] * 10)) < 3000
    many = [0.9 + 0.001 * math.sin(epoch) for epoch in range(100)]
    assert len(draw(many, many, many)) < 5000


def test_a_single_epoch_is_a_dash_that_can_be_seen():
    picture = draw([0.5], [2.0], [2.1], 1)
    assert picture.count("m-16 0h32") == 3


def test_without_losses_accuracy_has_the_whole_height():
    picture = draw(train=(), val=())
    assert "loss:" not in texts(picture)
    (accuracy,) = curves(picture, "v")
    assert max(y for _, y in accuracy) == 306


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_left_out(odd):
    picture = draw([0.5, odd, 0.7], [odd, 1.0, 2.0], [odd] * 3, best=2)
    accuracy, *none = curves(picture, "v")
    assert len(accuracy) == 2
    assert none == []
    assert "circle" not in picture


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1e30))
@example([0.0], 5e-324)
@example([0.5, 0.5000000001], 1e30)
@example([1.0, 1.0], 0.0)
def test_curves_stay_within_their_panel_whatever_the_numbers(accuracies, loss):
    picture = draw(accuracies, [loss] * len(accuracies), [2 * loss] * len(accuracies), 1)
    for kind in "vr":
        for curve in curves(picture, kind):
            assert all(62 <= x <= 462 and 92 <= y <= 306 for x, y in curve)
