import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.figures.contract import PICTURES, NothingToDraw
from pipeline.results.combination_result import Score
from pipeline.results.comparison import recovery as regained
from pipeline.results.reading import read_results

recovery = PICTURES["recovery"]().draw


def drawn(figure):
    return {trace.offsetgroup: trace for trace in figure.data if trace.offsetgroup}


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_recovery_is_0_of_what_was_compressed_1_of_the_original_and_linear_between(original, compressed, recovered):
    first, second = Score(original, 10_000), Score(compressed, 10_000)
    share = regained(first, second, recovered / 10_000)
    if share is None:
        assert compressed >= original - 200  # no interval of 10,000 images is wider
    else:
        assert compressed + share * (original - compressed) == pytest.approx(recovered, abs=1e-6)
        assert regained(first, second, second.accuracy) == 0
        assert regained(first, second, first.accuracy) == 1


def test_the_ratio_is_the_mean_over_seeds_with_their_range(finished):
    line = drawn(recovery(finished))["int1-lora svd"]
    shares = [100 * (accuracy - 0.41) / (0.98 - 0.41) for accuracy in (0.9715, 0.9695)]
    assert line.x == ("2", "8")
    assert line.y[1] == pytest.approx(sum(shares) / 2)
    assert line.error_y.array[1] == pytest.approx((shares[0] - shares[1]) / 2)
    assert line.error_y.arrayminus[1] == pytest.approx((shares[0] - shares[1]) / 2)
    assert "98.3 % recovered, mean of 2 seeds from 98.2 % to 98.5 %" in line.hovertext[1]


def test_the_original_is_at_100_percent_and_within_the_axis(finished):
    figure = recovery(finished)
    (line,) = figure.layout.shapes
    assert (line.y0, line.name) == (100, "original: 100 %")
    assert figure.layout.yaxis.range[0] < min(min(trace.y) for trace in drawn(figure).values())
    assert figure.layout.yaxis.range[1] > 100


def test_before_every_winner_is_tested_the_ratio_is_that_of_the_validation_part(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.references("val", 0.98, 0.48)
    stored.references("test", 0.9, 0.1)
    stored.trial(2, "svd", 0.93)
    figure = recovery(read_results(storage, "digits"))
    assert drawn(figure)["int1-lora svd"].y == pytest.approx([90])
    assert figure.layout.yaxis.title.text == "Recovered validation accuracy (%)"


def test_a_combination_whose_compression_lost_nothing_beyond_chance_is_left_out_and_named(store, storage):
    lossy, lossless = store(ranks=(2,), inits=("svd",)), store(combination="8 bits", ranks=(2,), inits=("svd",))
    lossy.references("val", 0.98, 0.48)
    lossless.references("val", 0.98, 0.979)
    for stored in (lossy, lossless):
        stored.trial(2, "svd", 0.97)
    both = read_results(storage, "digits")
    figure = recovery(both)
    assert list(drawn(figure)) == ["int1-lora svd"]
    assert figure.layout.title.subtitle.text.endswith("Left out, because their loss may be chance: 8 bits")
    with pytest.raises(NothingToDraw, match="left out, because their loss may be chance: 8 bits"):
        recovery(both[1:])
