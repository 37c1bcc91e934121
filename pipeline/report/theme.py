"""The colours of the page and of its pictures, in a light and a dark scheme.

A picture itself contains only colours that are legible in both schemes. The page applies the others when it is opened.
The contrast of text is at least 4.5 to 1, that of marks 3 to 1 (WCAG 2.2, AA).
"""

from dataclasses import asdict, dataclass
from typing import Any

NEUTRAL = "#7f7f7f"
"""A grey that is legible in both schemes, for all that is no cell: original models, fronts, reference lines."""


@dataclass(frozen=True)
class Scheme:
    """The colours of one scheme.

    Args:
        ink: Text.
        quiet: Less important text.
        line: Borders and axes.
        grid: Grid lines of pictures.
        ground: The background.
        panel: The background of boxes, buttons and tooltips.
        best: The background of shaded rows.
        link: Links.
    """

    ink: str
    quiet: str
    line: str
    grid: str
    ground: str
    panel: str
    best: str
    link: str


LIGHT_SCHEME = Scheme(
    ink="#1b1b1b",
    quiet="#595959",
    line="#8c8c8c",
    grid="#e4e4e4",
    ground="#ffffff",
    panel="#f5f5f2",
    best="#e9f3e4",
    link="#005a9c",
)
DARK_SCHEME = Scheme(
    ink="#e8e8e8",
    quiet="#ababab",
    line="#7d7d7d",
    grid="#363636",
    ground="#181818",
    panel="#262626",
    best="#22351c",
    link="#7db8f0",
)


def layout(scheme: Scheme) -> dict[str, Any]:
    """The layout of a plotly template: what a picture sets itself overrides it."""
    axis = {
        "gridcolor": scheme.grid,
        "linecolor": scheme.line,
        "tickcolor": scheme.line,
        "zerolinecolor": scheme.line,
        "zerolinewidth": 1,
        "automargin": True,
        "title": {"standoff": 8},
    }
    button = {"bgcolor": scheme.panel, "bordercolor": scheme.line, "font": {"color": scheme.ink}}
    clear = "rgba(0,0,0,0)"
    return {
        "font": {"color": scheme.ink, "family": "system-ui, sans-serif", "size": 13},
        "title": {"x": 0.01, "xanchor": "left", "subtitle": {"font": {"color": scheme.quiet}}},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "hovermode": "closest",
        "hoverlabel": {**button, "align": "left"},
        "legend": {"bgcolor": clear, "bordercolor": scheme.line, "font": {"color": scheme.ink}},
        "modebar": {"bgcolor": clear, "color": scheme.quiet, "activecolor": scheme.ink},
        "colorscale": {"sequential": "Cividis", "sequentialminus": "Cividis"},
        "coloraxis": {"colorscale": "Cividis", "colorbar": {"outlinewidth": 0, "tickcolor": scheme.line}},
        "xaxis": axis,
        "yaxis": axis,
        "shapedefaults": {"line": {"color": scheme.line}},
        "annotationdefaults": {"arrowcolor": scheme.line},
        "updatemenudefaults": button,
        "sliderdefaults": {
            **button,
            "activebgcolor": scheme.line,
            "tickcolor": scheme.line,
            "currentvalue": {"font": {"color": scheme.ink}},
        },
    }


LIGHT, DARK = layout(LIGHT_SCHEME), layout(DARK_SCHEME)


def properties(scheme: Scheme) -> str:
    """The colours as custom properties of a style sheet: ``--ink: #1b1b1b; ...``."""
    return " ".join(f"--{name}: {value};" for name, value in asdict(scheme).items())
