import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wording import counted, duration, readable_bytes


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
