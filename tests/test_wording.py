import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import wording
from pipeline.wording import (
    NO_BREAK,
    cell_name,
    counted,
    duration,
    init_name,
    listed,
    percent,
    percent_with_interval,
    percent_with_spread,
    rank_value,
    readable_bytes,
    size,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0 s"),
        (5.21, "5.2 s"),
        (8, "8 s"),
        (9.97, "10 s"),
        (56.4, "56 s"),
        (59.9, "1 min"),
        (200, "3 min 20 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (86_400, "1 d"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_durations_are_said_in_their_two_largest_units(seconds, text):
    assert duration(seconds) == text


@given(st.floats(0, 1e8))
def test_a_duration_is_never_more_than_a_twentieth_off(seconds):
    units = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    words = duration(seconds).split()
    said = sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert said == pytest.approx(seconds, abs=0.051, rel=1 / 20)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (58_624, "58.6 kB"),
        (999_999, "1 MB"),
        (1_050_000, "1.05 MB"),
        (4e9, "4 GB"),
        (3.2e12, "3.2 TB"),
        (1.5e15, "1,500 TB"),
    ],
)
def test_bytes_are_read_in_decimal_units(count, text):
    assert readable_bytes(count) == text


def test_one_is_singular():
    assert [counted(1, "trial"), counted(2_000, "trial")] == ["1 trial", "2,000 trials"]


def test_the_examples_of_the_docstrings_are_true():
    found = doctest.testmod(wording)
    assert found.attempted > 5
    assert found.failed == 0


def test_what_is_not_known_is_left_empty():
    unknown = (
        percent(None),
        percent_with_interval(None, None, None),
        percent_with_spread(None, None, 0, 0),
        size(None),
    )
    assert set(unknown) == {""}


def test_a_single_seed_has_no_spread_and_seeds_that_failed_are_told():
    assert percent_with_spread(0.9, None, 1, 0) == ""
    assert percent_with_spread(None, None, 1, 2) == "1 of 3 seeds"


def test_no_line_breaks_within_a_size():
    assert size(58_624) == f"58.6{NO_BREAK}kB"


def test_names_are_joined_as_one_says_them():
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("unit", "value", "name"),
    [
        (None, "20000", "rank 20000, svd"),
        ("bytes", "20 kB", "budget 20 kB, svd"),
        ("parameters", "20,000 parameters", "budget 20,000 parameters, svd"),
    ],
)
def test_a_rank_that_stands_for_a_budget_has_its_unit(unit, value, name):
    assert rank_value(20_000, unit) == value
    assert cell_name(20_000, "svd", unit) == name


def test_an_adapter_without_ranks_has_neither_rank_nor_init():
    assert (rank_value(0), init_name("none"), init_name("none", "-")) == ("-", "no init", "-")
    assert cell_name(0, "none", "bytes") == "no ranks"
