import pytest

from pipeline.report.numbers_text import FIRM, listed, percent, rank_said, spread, time, with_interval
from pipeline.results.stored_results import read_results


def plain(text):
    return text.replace(FIRM, " ")


def test_no_line_breaks_within_a_duration():
    assert time(200) == "3 min 20 s".replace(" ", FIRM)


def test_what_is_not_known_is_left_empty():
    assert percent(None) == with_interval(None, None, None) == spread(None, None, 0, 0) == spread(0.9, None, 1, 0) == ""


def test_accuracies_are_said_in_percent():
    assert percent(0.954) == "95.40"
    assert with_interval(0.954, 0.9392, 0.9653) == "95.40 (93.92 to 96.53)"
    assert spread(0.9531, 0.0012, 3, 0) == "95.31 ± 0.12 (3 seeds)"
    assert spread(0.9531, 0.0012, 2, 1) == "95.31 ± 0.12 (2 of 3 seeds)"
    assert spread(None, None, 1, 2) == "1 of 3 seeds"


def test_names_are_joined_as_one_says_them():
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("budgets", "said"), [(None, ["-", "20000"]), ("bytes", ["-", "20 kB"]), ("parameters", ["-", "20,000 numbers"])]
)
def test_a_rank_that_is_a_budget_is_said_with_its_unit(budgets, said, store, storage):
    store(ranks=(0, 20_000), budgets=budgets)
    (result,) = read_results(storage, "digits")
    assert [plain(rank_said(result, rank)) for rank in (0, 20_000)] == said
