import itertools
import json

import plotly.graph_objects as go
import pytest
from plotly.colors import hex_to_rgb, sample_colorscale

from pipeline.report.figures.contract import pictures
from pipeline.report.figures.heat_map import MIDDLE, legible_ink
from pipeline.report.figures.parameter_figures import SCALE
from pipeline.report.figures.style import INKS, Look
from pipeline.report.theme import DARK, DARK_SCHEME, LIGHT, LIGHT_SCHEME, NEUTRAL, properties

SCHEMES = pytest.mark.parametrize("scheme", [LIGHT_SCHEME, DARK_SCHEME], ids=["light", "dark"])
GROUNDS = {"light": LIGHT_SCHEME["ground"], "dark": DARK_SCHEME["ground"]}
LINES = sample_colorscale([list(stop) for stop in SCALE], 21, colortype="tuple")


def luminance(colour):
    """Relative luminance of WCAG 2.2, of a colour as ``#rrggbb`` or as shares of red, green and blue."""
    parts = [part / 255 for part in hex_to_rgb(colour)] if isinstance(colour, str) else colour
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_as_the_guidelines_count_it():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@SCHEMES
def test_text_reads_on_every_ground_it_stands_on(scheme):
    for text in (scheme["ink"], scheme["quiet"], scheme["link"]):
        assert contrast(text, scheme["ground"]) >= 4.5
        assert contrast(text, scheme["panel"]) >= 4.5
    assert contrast(scheme["ink"], scheme["best"]) >= 4.5


@SCHEMES
def test_lines_and_marks_stand_out_from_the_ground(scheme):
    assert all(contrast(ink, scheme["ground"]) >= 3 for ink in (scheme["line"], NEUTRAL, *INKS))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_plotly_takes_the_themes_and_no_ground_of_theirs_hides_the_page(theme):
    layout = go.layout.Template(layout=theme).layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_the_style_sheet_and_the_pictures_have_the_same_colours():
    assert f"--ink: {DARK_SCHEME['ink']};" in properties(DARK_SCHEME)
    assert DARK["font"]["color"] == DARK_SCHEME["ink"]


@pytest.mark.parametrize("one", pictures(), ids=lambda one: one.name)
def test_no_picture_brings_a_ground_of_its_own(one, finished):
    layout = json.loads(one.draw(finished).to_json())["layout"]
    assert {"paper_bgcolor", "plot_bgcolor"} & layout.keys() == set()
    assert "color" not in layout.get("font", {})


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
@pytest.mark.parametrize("ink", [*INKS, NEUTRAL, *LINES], ids=str)
def test_every_ink_reads_on_both_grounds(ink, ground):
    assert contrast(ink, ground) >= 3


@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.45, MIDDLE, MIDDLE + 0.001, 0.5, 0.6, 0.8, 1])
def test_the_numbers_on_a_heat_map_read_on_every_colour(share):
    (cell,) = sample_colorscale("Cividis", [share], colortype="tuple")
    assert contrast(legible_ink(share), cell) >= 4.5


def test_seventy_inits_and_a_dozen_combinations_are_told_apart_by_ink_and_symbol_and_by_filling_and_dash():
    inits, combinations = tuple(f"init{n}" for n in range(70)), tuple(f"combination{n}" for n in range(12))
    look = Look(inits, combinations)
    assert len({(look.ink(init), look.symbol("combination0", init)) for init in inits}) == 70
    assert len({(look.symbol(one, "init0"), look.dash(one)) for one in combinations}) == 12


def test_ten_inits_are_told_apart_by_their_symbols_alone():
    look = Look(tuple("abcdefghij"), ("one",))
    assert all(look.symbol("one", a) != look.symbol("one", b) for a, b in itertools.combinations("abcdefghij", 2))
