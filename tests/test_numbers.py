import pytest

from pipeline.numbers import wilson


@pytest.mark.parametrize(
    ("correct", "n", "interval"),
    [
        # Newcombe 1998, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_the_wilson_interval_agrees_with_published_values(correct, n, interval):
    assert wilson(correct, n) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_an_interval_of_no_images_is_refused(correct, n):
    with pytest.raises(ValueError, match="correct from 0 to n"):
        wilson(correct, n)
