from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.report.figures.axes import linear_ticks, log_axis
from pipeline.report.figures.labels import short, told_apart


@given(st.lists(st.floats(1e-9, 1e10), min_size=1, max_size=5))
def test_a_logarithmic_axis_has_ticks_within_its_range(values):
    axis = log_axis(values)
    assert 4 <= len(axis["tickvals"]) <= 60
    assert 10 ** axis["range"][0] <= min(values)
    assert 10 ** axis["range"][1] >= max(values)
    assert all(10 ** axis["range"][0] * 0.999 <= tick <= 10 ** axis["range"][1] * 1.001 for tick in axis["tickvals"])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
@example(1.0, 0.4)  # its logarithm rounds to a whole number
def test_a_linear_axis_has_four_to_eleven_ticks_at_one_distance(low, span):
    ticks = linear_ticks(low, low + span)
    assert 4 <= len(ticks) <= 11
    steps = [after - before for before, after in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-2)


def test_ticks_of_near_values_are_evenly_spaced():
    assert log_axis([9.6, 10.4])["tickvals"] == [9, 9.5, 10, 10.5, 11, 11.5]


def test_a_long_name_is_cut_in_its_middle_and_then_escaped():
    assert short("a<b") == "a&lt;b"
    assert short("a" * 40 + "<", 11) == "aaaaa…aaaa&lt;"


def test_long_names_of_layers_are_told_apart_by_their_numbers():
    names = [f"encoder.layer.{n}.attention.{part}.dense.projection" for n in range(12) for part in ("self", "output")]
    assert told_apart([*names, "head"])[::12] == [
        "enc….lay….0.att….self.den….pro…",
        "enc….lay….6.att….self.den….pro…",
        "head",
    ]
    assert told_apart(["fc<1>", "fc2"]) == ["fc&lt;1&gt;", "fc2"]


@given(st.lists(st.text("ab.", min_size=1, max_size=60), min_size=1, max_size=8, unique=True))
def test_names_of_layers_stay_different_when_they_are_shortened(names):
    assert len(set(told_apart(names))) == len(names)
