import pytest
from views import cell, progress

from pipeline.terminal.progress_lines import progress_line, rate_text, seconds_for, trials_per_second


def test_before_anything_is_known_nothing_is_said():
    assert trials_per_second(0, 100) is None
    assert trials_per_second(3, 0.0) is None
    assert seconds_for(3, None) is None


def test_a_cell_that_is_exhausted_has_nothing_left():
    searched = progress(cell(budget=4, complete=1, failed=4), cell(budget=4, complete=2))
    assert progress_line("one", searched, 3 / 30, None).endswith("about 20 s left")


@pytest.mark.parametrize(
    ("rate", "said"),
    [(None, "- trials/min"), (0.8, "48 trials/min"), (0.001, "3.6 trials/h"), (10.0, "600 trials/min")],
)
def test_a_rate_is_said_in_the_unit_that_suits_it(rate, said):
    assert rate_text(rate) == said
