"""How all pictures look: one colour an init, one symbol and dash a combination, and axes that show what differs.

Plotly reads tags in every text of a figure, so names are escaped here as on the page.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipeline.report.figures.contract import Figure
from pipeline.search.results import CellResult, CombinationResult

INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; its black is kept for what is no cell."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "pentagon", "hexagon", "x")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PATTERNS = ("", "/", "x", ".", "-", "|", "+")
STEPS = (
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    *(tuple(1 + i / n for i in range(9 * n)) for n in (2, 10, 100)),
)
"""Where ticks may stand within a decade, from sparse to dense."""


@dataclass(frozen=True)
class Look:
    """Who is drawn how. Inits and combinations keep their place in the study's order, so that all pictures agree."""

    inits: tuple[str, ...]
    combinations: tuple[str, ...]

    def ink(self, init: str) -> str:
        return INKS[self.inits.index(init) % len(INKS)]

    def symbol(self, combination: str) -> str:
        return SYMBOLS[self.combinations.index(combination) % len(SYMBOLS)]

    def dash(self, combination: str) -> str:
        return DASHES[self.combinations.index(combination) % len(DASHES)]

    def pattern(self, combination: str) -> str:
        return PATTERNS[self.combinations.index(combination) % len(PATTERNS)]

    def name(self, combination: str, init: str) -> str:
        """What legends call a combination's cells of one init."""
        return escape(f"{combination}, {init}" if len(self.combinations) > 1 else init)

    def compressed_name(self, combination: str) -> str:
        """What legends call the model that is compressed and not trained afterwards."""
        return escape(f"only compressed, {combination}" if len(self.combinations) > 1 else "only compressed")


def look_of(results: Sequence[CombinationResult]) -> Look:
    inits = dict.fromkeys(cell.cell.init for result in results for cell in result.cells)
    return Look(tuple(inits), tuple(result.name for result in results))


def ranks_of(results: Sequence[CombinationResult]) -> list[int]:
    """Every rank with a complete trial, ascending."""
    return sorted({cell.cell.rank for result in results for cell in result.cells if cell.best})


def finish(figure: Figure, title: str, height: int = 520) -> Figure:
    """What all pictures share: white ground, title, and the legend below, where long names do not squeeze the axes."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.01, "xanchor": "left"},
        font={"family": "system-ui, sans-serif", "size": 13},
        height=height,
        margin={"l": 70, "r": 30, "t": 70, "b": 60},
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0.0, "xanchor": "left"},
    )
    figure.update_xaxes(showline=True, linecolor="#999999", ticks="outside")
    figure.update_yaxes(showline=True, linecolor="#999999", ticks="outside")
    return figure


def log_axis(values: Iterable[float], *, reverse: bool = False) -> dict[str, Any]:
    """Range and ticks of a logarithmic axis around positive ``values``; at least four ticks, however near they are."""
    values = list(values)
    low, high = min(values) / 1.12, max(values) * 1.12
    ticks: list[float] = []
    for step in STEPS:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [round(m * 10.0**d, 10) for d in decades for m in step if low <= m * 10.0**d <= high]
        if len(ticks) >= 4:
            break
    ends = [math.log10(low), math.log10(high)]
    return {"type": "log", "range": ends[::-1] if reverse else ends, "tickvals": ticks}


def whole_steps(last: int) -> dict[str, int]:
    """Ticks of an axis that counts up to ``last``: whole numbers, six or so."""
    return {"tick0": 0, "dtick": max(1, round(last / 6))}


def readable_bytes(count: float) -> str:
    """``1050000`` -> ``1.05 MB``; decimal units."""
    power = min(int(math.log10(max(count, 1)) // 3), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def hover(result: CombinationResult, cell: CellResult, *lines: str) -> str:
    """What is shown of a cell's winner under the pointer."""
    if cell.best is None:
        raise ValueError(f"{cell.cell} has no winner to speak of")
    params = ", ".join(f"{key} {_short(v)}" for key, v in cell.best.params.items() if key not in ("rank", "init"))
    size = f"{readable_bytes(cell.best.user_attrs['bytes'])}, {cell.best.user_attrs['ratio']:.2f} times smaller"
    head = f"{result.name}, {cell.cell}, trial {cell.best.number}"
    return "<br>".join(map(escape, (head, *lines, params, size)))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
