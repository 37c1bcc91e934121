"""An animation of spectra over the epochs of a training."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from plotly.subplots import make_subplots

from pipeline.report.figures.axes import whole_steps
from pipeline.report.figures.contract import Figure
from pipeline.report.figures.labels import short
from pipeline.report.figures.style import DASHES, INKS, finish
from pipeline.results.spectra_file import Course

PANELS = {"W": "trained W", "s B A": "adapter s B A", "Q + s B A": "adapted Q + s B A"}
FLOOR = 1e-6
"""Smaller shares are not shown, because they are rounding errors of zeros."""
SECONDS = 6.0
"""The duration of the animation, as far as ``FRAME`` allows it."""
FRAME = (60.0, 400.0)
"""The shortest and the longest duration of a frame in milliseconds."""


@dataclass(frozen=True)
class _Drawn:
    """A course in its panel; ``choice`` is None for a course that is always shown."""

    course: Course
    choice: str | None
    column: int
    line: Mapping[str, Any]


def draw_courses(always: Sequence[Course], choices: Mapping[str, Sequence[Course]], subtitle: str = "") -> Figure:
    """Singular values with one frame per epoch, and below them the effective rank with a marker at that epoch.

    Args:
        always: Courses that are shown with every choice.
        choices: Sets of courses by their names in the menu, which shows one set at a time, first the first.
        subtitle: Plain text below the title.
    """
    courses = [*always, *chain.from_iterable(choices.values())]
    columns = [matrix for matrix in PANELS if any(course.matrix == matrix for course in courses)]
    lines = _lines(dict.fromkeys(course.layer for course in courses))
    sets = [(None, always), *choices.items()]
    drawn = [
        _Drawn(course, choice, columns.index(course.matrix) + 1, lines[course.layer])
        for choice, members in sets
        for course in members
    ]
    figure = make_subplots(
        rows=2,
        cols=len(columns),
        column_titles=[PANELS[matrix] for matrix in columns],
        row_heights=[0.62, 0.38],
        horizontal_spacing=0.07,
        vertical_spacing=0.13,
    )
    for one in drawn:
        for row, trace in ((1, _spectrum(one)), (2, _ranks(one)), (2, _mark(one))):
            figure.add_scatter(**trace, visible=one.choice in (None, *list(choices)[:1]), row=row, col=one.column)
    for layer, line in lines.items():
        figure.add_scatter(x=[None], y=[None], mode="lines", name=short(layer), legendgroup=layer, line=line)
    epochs = max(len(course.shares) for course in courses)
    for column, matrix in enumerate(columns, start=1):
        widest = max(len(course.shares[0]) for course in courses if course.matrix == matrix)
        figure.update_xaxes(whole_steps(widest), title="j", range=[0, widest + 1], row=1, col=column)
    margin = 0.03 * epochs
    figure.update_xaxes(whole_steps(epochs - 1), title="Epoch", range=[-margin, epochs - 1 + margin], row=2)
    figure.update_yaxes(_decades(courses), showticklabels=False, row=1)
    figure.update_yaxes(title="s<sub>j</sub> / Σ s", showticklabels=True, row=1, col=1)
    figure.update_yaxes(title="Effective rank", row=2, col=1)
    figure.frames = [_frame(drawn, epoch) for epoch in range(epochs)]
    menus = [_play(epochs), *([_menu(drawn, list(choices), len(lines))] if len(choices) > 1 else [])]
    figure.update_layout(sliders=[_slider(epochs)], updatemenus=menus)
    width = 100 + 200 * len(columns)
    finish(
        figure,
        "Spectra",
        height=800,
        min_width=width,
        subtitle=subtitle,
        margins=(130, 150),
    )
    return figure


def _decades(courses: Sequence[Course]) -> dict[str, Any]:
    """A logarithmic axis that is the same in every frame: whole decades around all shares of all epochs."""
    shown = [share for course in courses for epoch in course.shares for share in epoch if share >= FLOOR]
    low, high = math.floor(math.log10(min(shown, default=FLOOR))), math.ceil(math.log10(max(shown, default=1.0)))
    # The one share of a spectrum of rank 1 lies at the upper end: leave room for its marker.
    return {"type": "log", "range": [low, high + 0.1], "dtick": 1, "exponentformat": "power"}


def _lines(layers: Mapping[str, None]) -> dict[str, dict[str, Any]]:
    """One colour per layer, and another dash once all colours are used."""
    return {
        layer: {"color": INKS[index % len(INKS)], "dash": DASHES[index // len(INKS) % len(DASHES)], "width": 1.5}
        for index, layer in enumerate(layers)
    }


def _at(course: Course, epoch: int) -> tuple[int, list[float | None], float]:
    """Epoch, shares and effective rank; a course that ended earlier stays at its last epoch. Zeros are gaps."""
    last = min(epoch, len(course.shares) - 1)
    return last, [share or None for share in course.shares[last]], course.effective_rank[last]


def _spectrum(one: _Drawn) -> dict[str, Any]:
    _, shares, _ = _at(one.course, 0)
    return {
        "x": list(range(1, len(shares) + 1)),
        "y": shares,
        "mode": "lines+markers",
        "marker": {"size": 4 if len(shares) > 16 else 6},
        **_common(one, "s<sub>%{x}</sub> / Σ s = %{y:.3g}"),
    }


def _ranks(one: _Drawn) -> dict[str, Any]:
    ranks = one.course.effective_rank
    return {
        "x": list(range(len(ranks))),
        "y": list(ranks),
        "mode": "lines",
        **_common(one, "epoch %{x}: effective rank %{y:.2f}"),
    }


def _mark(one: _Drawn) -> dict[str, Any]:
    epoch, _, rank = _at(one.course, 0)
    return {"x": [epoch], "y": [rank], "mode": "markers", "marker": {"size": 9}, **_common(one, "%{y:.2f}")}


def _common(one: _Drawn, hover: str) -> dict[str, Any]:
    name = short(one.course.layer, 80)
    return {
        "name": name,
        "legendgroup": one.course.layer,
        "showlegend": False,
        "line": one.line,
        "marker_color": one.line["color"],
        "hovertemplate": f"{name}<br>{hover}<extra></extra>",
    }


def _frame(drawn: Sequence[_Drawn], epoch: int) -> dict[str, Any]:
    """A frame: the first and the third trace of each course change."""

    def moved() -> Iterator[dict[str, Any]]:
        for one in drawn:
            last, shares, rank = _at(one.course, epoch)
            yield {"type": "scatter", "y": shares}
            yield {"type": "scatter", "x": [last], "y": [rank]}

    return {
        "name": str(epoch),
        "data": list(moved()),
        "traces": [3 * index + which for index in range(len(drawn)) for which in (0, 2)],
    }


def _animate(milliseconds: float) -> dict[str, Any]:
    return {
        "mode": "immediate",
        "fromcurrent": True,
        "frame": {"duration": milliseconds, "redraw": False},
        "transition": {"duration": 0},
    }


def _play(epochs: int) -> dict[str, Any]:
    low, high = FRAME
    milliseconds = min(max(1000 * SECONDS / epochs, low), high)
    return {
        "type": "buttons",
        "direction": "left",
        "showactive": False,
        "buttons": [
            {"label": "Play", "method": "animate", "args": [None, _animate(milliseconds)]},
            {"label": "Pause", "method": "animate", "args": [[None], _animate(0)]},
        ],
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 78},
    }


def _slider(epochs: int) -> dict[str, Any]:
    return {
        "steps": [
            {"label": str(epoch), "method": "animate", "args": [[str(epoch)], _animate(0)]} for epoch in range(epochs)
        ],
        "currentvalue": {"prefix": "epoch "},
        "x": 1,
        "xanchor": "right",
        "len": 0.8,
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 52},
    }


def _menu(drawn: Sequence[_Drawn], choices: Sequence[str], legends: int) -> dict[str, Any]:
    """A menu that shows one choice, what is always shown, and the legend."""

    def visible(choice: str) -> list[bool]:
        return [one.choice in (None, choice) for one in drawn for _ in range(3)] + [True] * legends

    return {
        "buttons": [
            {"label": short(choice, 48), "method": "restyle", "args": [{"visible": visible(choice)}]}
            for choice in choices
        ],
        "x": 1,
        "xanchor": "right",
        "y": 1.09,
        "yanchor": "bottom",
    }
