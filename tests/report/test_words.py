import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.words import counted, duration, listed, percent, rank_said, spread, with_interval
from pipeline.search.results import read_results


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (5.21, "5.2 s"),
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
    assert plain(duration(seconds)) == text


@given(st.floats(0, 1e8))
def test_a_duration_is_never_more_than_a_sixtieth_off(seconds):
    units = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    words = plain(duration(seconds)).split()
    said = sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert said == pytest.approx(seconds, abs=0.051, rel=1 / 60)


def test_what_is_not_known_is_left_empty():
    assert percent(None) == with_interval(None, None, None) == spread(None, None, 0) == spread(0.9, None, 1) == ""


def test_accuracies_are_said_in_percent():
    assert percent(0.954) == "95.40"
    assert with_interval(0.954, 0.9392, 0.9653) == "95.40 (93.92 to 96.53)"
    assert spread(0.9531, 0.0012, 3) == "95.31 ± 0.12 (3)"


def test_names_are_joined_and_things_counted_as_one_says_them():
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]
    assert [counted(1, "trial"), counted(2_000, "trial")] == ["1 trial", "2,000 trials"]


@pytest.mark.parametrize(
    ("budgets", "said"), [(None, ["-", "20000"]), ("bytes", ["-", "20 kB"]), ("parameters", ["-", "20,000 numbers"])]
)
def test_a_rank_that_is_a_budget_is_said_with_its_unit(budgets, said, store, storage):
    store(ranks=(0, 20_000), budgets=budgets)
    (result,) = read_results(storage, "digits")
    assert [plain(rank_said(result, rank)) for rank in (0, 20_000)] == said
