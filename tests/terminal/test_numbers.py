import pytest

from pipeline.terminal.numbers import count_text, duration_text, size_text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (8, "8 s"),
        (59.7, "1 min 00 s"),
        (125, "2 min 05 s"),
        (12_000, "3 h 20 min"),
        (200_000, "2 d 07 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds, said):
    assert duration_text(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (999_900, "1 MB"), (46_800, "46.8 kB"), (3.2e12, "3.2 TB")]
)
def test_sizes_have_three_digits(count, said):
    assert size_text(count) == said


def test_one_is_singular():
    assert (count_text(1, "cell"), count_text(1200, "cell")) == ("1 cell", "1,200 cells")
