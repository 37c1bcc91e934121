"""The common look of all pictures. Colour and marker show the init; dash and fill show the combination.

Pictures set no background and no colour of text and axes: the page's theme sets both, for light and dark schemes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.figures.contract import Figure
from pipeline.report.figures.labels import short
from pipeline.report.theme import LIGHT, LIGHT_SCHEME, NEUTRAL
from pipeline.results.combination_result import CombinationResult
from pipeline.wording import init_name

INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7335FE", "#CD0837", "#4498B7")
"""Four colours of Okabe and Ito that are legible on white and on black, and three more, so that readers who cannot tell
red from green can still tell all seven apart."""
SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "cross", "triangle-down"),
    *("pentagon", "x", "hexagram", "diamond-wide", "triangle-left"),
)
"""Eleven markers with seven colours: no two of 77 inits look the same."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
FILLINGS = ("", "-open", "-dot", "-open-dot")
PATTERNS = ("", "/", "x", ".", "-", "|", "+")
OVER = {"fgcolor": "#FFFFFF", "fillmode": "overlay", "size": 7}
"""The style of a bar's pattern over its colour."""
ORIGINALS = ("star", "star-square", "star-diamond", "star-triangle-up")
"""Markers of the original models."""
MARKS = ("x-thin-open", "asterisk-open", "cross-thin-open", "hash-open", "y-up-open", "y-down-open")
"""Markers of the compressed-only models."""
ALONE = 450
"""The height in pixels that the dashboard gives a picture."""
PHONE = 340
"""The width in pixels of a picture on a narrow phone."""


@dataclass(frozen=True)
class Look:
    """The look of each init and each combination (by its label), by its index in the study, so that pictures agree."""

    inits: tuple[str, ...]
    combinations: tuple[str, ...]
    only: Mapping[str, str] = field(default_factory=dict)
    """The init of each combination that has a single one: the combination's legend entry looks as its cells do."""

    def ink(self, init: str) -> str:
        return _of(INKS, self.inits, init)

    def symbol(self, combination: str, init: str) -> str:
        return f"{_of(SYMBOLS, self.inits, init)}{_of(FILLINGS, self.combinations, combination)}"

    def dash(self, combination: str) -> str:
        return _of(DASHES, self.combinations, combination)

    def pattern(self, combination: str) -> str:
        return _of(PATTERNS, self.combinations, combination)

    def mark(self, combination: str) -> str:
        return _of(MARKS, self.combinations, combination)

    def trace(self, combination: str, init: str, size: int = 9) -> dict[str, Any]:
        """What all traces of an init of a combination have in common; ``size`` is that of its markers in pixels."""
        return {
            "legendgroup": init,
            "showlegend": False,
            "line": {"color": self.ink(init), "dash": self.dash(combination), "width": 1.5},
            "marker": _marker(self.symbol(combination, init), self.ink(init), size),
        }

    def compressed_name(self, combination: str) -> str:
        """The legend of the compressed-only model of a combination."""
        return f"compressed only, {short(combination, 20)}" if len(self.combinations) > 1 else "compressed only"

    def legend(self, figure: Figure, **place: int) -> None:
        """Add a legend entry per init and, if there are several, per combination.

        The traces of an init share its ``legendgroup``, so that a click on its name hides them all.
        """
        for init in self.inits:
            name = {"name": short(init_name(init)), "legendgroup": init, "line": {"color": self.ink(init)}}
            symbol = {"symbol": _of(SYMBOLS, self.inits, init), "size": 9, "color": self.ink(init)}
            figure.add_scatter(x=[None], y=[None], mode="lines+markers", marker=symbol, **name, **place)
        for combination in self.combinations if len(self.combinations) > 1 else ():
            only = self.only.get(combination)
            ink = self.ink(only) if only else NEUTRAL
            shape = self.symbol(combination, only) if only else f"circle{_of(FILLINGS, self.combinations, combination)}"
            line = {"color": ink, "dash": self.dash(combination), "width": 2}
            group = {"name": short(combination), "legendgroup": f"combination {combination}", "line": line}
            mark = _marker(shape, ink, 9)
            figure.add_scatter(x=[None], y=[None], mode="lines+markers", marker=mark, **group, **place)


def _marker(symbol: str, colour: str, size: int) -> dict[str, Any]:
    """A marker; without a line the dot of a filling would not be drawn."""
    return {"symbol": symbol, "color": colour, "size": size, "line": {"color": "#FFFFFF", "width": 1.5}}


def _of(choices: Sequence[str], names: Sequence[str], name: str) -> str:
    return choices[names.index(name) % len(choices)]


def look_of(results: Sequence[CombinationResult]) -> Look:
    inits = {result.label: tuple(dict.fromkeys(cell.cell.init for cell in result.cells)) for result in results}
    every = dict.fromkeys(init for of_result in inits.values() for init in of_result)
    only = {label: of_result[0] for label, of_result in inits.items() if len(of_result) == 1}
    return Look(tuple(every), tuple(inits), only)


def finish(
    figure: Figure,
    title: str,
    *,
    height: int = 480,
    min_width: int = 0,
    subtitle: str = "",
    margins: tuple[int, int] = (64, 56),
) -> Figure:
    """Give a figure its title, size and margins, and a legend below, where long names leave the axes their width.

    Sizes are in pixels: ``height`` is without the legend, a page narrower than ``min_width`` scrolls the figure, and
    ``margins`` are those above the axes, and between the axes and the legend.
    """
    top, below = margins
    names = [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]
    names += [shape.name for shape in figure.layout.shapes if shape.showlegend]
    legend = _legend_height(names, max(min_width, PHONE) - 100) if len(names) > 1 else 0
    corner = {"xanchor": "left", "yanchor": "top"}
    entries = {"traceorder": "normal", "maxheight": 1, "itemwidth": 36, "font": {"size": 12}}
    figure.update_layout(
        template=None,
        title={**corner, "text": title, "x": 0.01, "y": 1, "yref": "container", "pad": {"t": 14}},
        title_subtitle_text=short(subtitle, 400) or None,
        height=height + legend,
        margin={"l": 60, "r": 20, "t": top, "b": below},
        # Plotly adds room for it below the axis, as the width of the figure requires.
        legend={**corner, **entries, "orientation": "h", "x": 0, "y": -below / (height - top - below - 4)},
        meta={"min_width": min_width},
    )
    figure.update_xaxes(showline=True, ticks="outside")
    figure.update_yaxes(showline=True, ticks="outside")
    return figure


def _legend_height(names: Sequence[str], width: int) -> int:
    """The height in pixels of a legend at a width; plotly makes all columns as wide as the widest name."""
    widest = 50 + 6 * max(map(len, names))
    return 20 * -(-len(names) // max(1, width // widest)) + 10


def on_white(figure: Figure) -> Figure:
    """A picture without a page around it: dark on white."""
    ground = {"paper_bgcolor": LIGHT_SCHEME["ground"], "plot_bgcolor": LIGHT_SCHEME["ground"]}
    return figure.update_layout(template={"layout": {**LIGHT, **ground}})


def alone(figure: Figure) -> Figure:
    """A picture for the dashboard: dark on white, low and wide, with the legend on the right."""
    legend = {"orientation": "v", "x": 1.01, "y": 1, "xanchor": "left", "yanchor": "top"}
    return on_white(figure).update_layout(height=ALONE, legend=legend)
