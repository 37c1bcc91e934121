import itertools

import pytest
from plotly.colors import hex_to_rgb, sample_colorscale

from pipeline.report.figures.heat_map import MIDDLE, legible_ink
from pipeline.report.figures.parallel_coordinates import SCALE
from pipeline.report.figures.style import INKS, Look
from pipeline.report.theme import DARK_SCHEME, LIGHT_SCHEME, NEUTRAL

GROUNDS = {"light": LIGHT_SCHEME["ground"], "dark": DARK_SCHEME["ground"]}
LINES = sample_colorscale([[place / (len(SCALE) - 1), ink] for place, ink in enumerate(SCALE)], 21, colortype="tuple")


def luminance(colour):
    parts = [part / 255 for part in hex_to_rgb(colour)] if isinstance(colour, str) else colour
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
@pytest.mark.parametrize("ink", [*INKS, NEUTRAL, *LINES], ids=str)
def test_everylegible_ink_reads_on_both_grounds(ink, ground):
    assert contrast(ink, ground) >= 3


@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.45, MIDDLE, MIDDLE + 0.001, 0.5, 0.6, 0.8, 1])
def test_the_numbers_on_a_heat_map_read_on_every_colour(share):
    (cell,) = sample_colorscale("Cividis", [share], colortype="tuple")
    assert contrast(legible_ink(share), cell) >= 4.5


def test_seventy_inits_and_a_dozen_combinations_are_told_apart_bylegible_ink_and_symbol_and_by_filling_and_dash():
    inits, combinations = tuple(f"init{n}" for n in range(70)), tuple(f"combination{n}" for n in range(12))
    look = Look(inits, combinations)
    assert len({(look.ink(init), look.symbol("combination0", init)) for init in inits}) == 70
    assert len({(look.symbol(one, "init0"), look.dash(one)) for one in combinations}) == 12


def test_ten_inits_are_told_apart_by_their_symbols_alone():
    look = Look(tuple("abcdefghij"), ("one",))
    assert all(look.symbol("one", a) != look.symbol("one", b) for a, b in itertools.combinations("abcdefghij", 2))
