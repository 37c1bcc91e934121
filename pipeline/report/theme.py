"""The colours of the page and of its pictures, in a light and a dark scheme.

A picture itself contains only colours that are legible in both schemes. The page applies the others when it is opened.
The contrast of text is at least 4.5 to 1, that of marks 3 to 1 (WCAG 2.2, AA).
"""

from collections.abc import Mapping
from typing import Any

NEUTRAL = "#7f7f7f"
"""A grey that is legible in both schemes, for all that is no cell: original models, fronts, reference lines."""
COLOURS = {
    "ink": ("#1b1b1b", "#e8e8e8"),  # text
    "quiet": ("#595959", "#ababab"),  # less important text
    "line": ("#8c8c8c", "#7d7d7d"),  # borders and axes
    "grid": ("#e4e4e4", "#363636"),  # grid lines of pictures
    "ground": ("#ffffff", "#181818"),
    "panel": ("#f5f5f2", "#262626"),  # the background of boxes, buttons and tooltips
    "best": ("#e9f3e4", "#22351c"),  # the background of shaded rows
    "link": ("#005a9c", "#7db8f0"),
}
"""The colours of the light and of the dark scheme, by name."""
LIGHT_SCHEME = {name: light for name, (light, _) in COLOURS.items()}
DARK_SCHEME = {name: dark for name, (_, dark) in COLOURS.items()}


def layout(scheme: Mapping[str, str]) -> dict[str, Any]:
    """The layout of a plotly template: what a picture sets itself overrides it."""
    axis = {
        **dict.fromkeys(("linecolor", "tickcolor", "zerolinecolor"), scheme["line"]),
        "gridcolor": scheme["grid"],
        "zerolinewidth": 1,
        "automargin": True,
        "title": {"standoff": 8},
    }
    button = {"bgcolor": scheme["panel"], "bordercolor": scheme["line"], "font": {"color": scheme["ink"]}}
    clear = "rgba(0,0,0,0)"
    return {
        "font": {"color": scheme["ink"], "family": "system-ui, sans-serif", "size": 13},
        "title": {"x": 0.01, "xanchor": "left", "subtitle": {"font": {"color": scheme["quiet"]}}},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "hovermode": "closest",
        "hoverlabel": {**button, "align": "left"},
        "legend": {"bgcolor": clear, "bordercolor": scheme["line"], "font": {"color": scheme["ink"]}},
        "modebar": {"bgcolor": clear, "color": scheme["quiet"], "activecolor": scheme["ink"]},
        "colorscale": {"sequential": "Cividis", "sequentialminus": "Cividis"},
        "coloraxis": {"colorscale": "Cividis", "colorbar": {"outlinewidth": 0, "tickcolor": scheme["line"]}},
        "xaxis": axis,
        "yaxis": axis,
        "shapedefaults": {"line": {"color": scheme["line"]}},
        "annotationdefaults": {"arrowcolor": scheme["line"]},
        "updatemenudefaults": button,
        "sliderdefaults": {
            **button,
            "activebgcolor": scheme["line"],
            "tickcolor": scheme["line"],
            "currentvalue": {"font": {"color": scheme["ink"]}},
        },
    }


LIGHT, DARK = layout(LIGHT_SCHEME), layout(DARK_SCHEME)


def properties(scheme: Mapping[str, str]) -> str:
    """The colours as custom properties of a style sheet: ``--ink: #1b1b1b; ...``."""
    return " ".join(f"--{name}: {value};" for name, value in scheme.items())
