import json

import plotly.graph_objects as go
import pytest

from pipeline.report.figures.contract import pictures
from pipeline.report.figures.style import INKS
from pipeline.report.theme import DARK, DARK_SCHEME, LIGHT, LIGHT_SCHEME, NEUTRAL, properties

SCHEMES = pytest.mark.parametrize("scheme", [LIGHT_SCHEME, DARK_SCHEME], ids=["light", "dark"])


def luminance(colour):
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
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
