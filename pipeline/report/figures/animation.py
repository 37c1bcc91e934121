"""An animation of spectra over the epochs of a training."""

import math
from collections.abc import Mapping, Sequence
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
LEFT, RIGHT = {"x": 0, "xanchor": "left"}, {"x": 1, "xanchor": "right"}
BELOW = {"y": 0, "yanchor": "top"}


def draw_courses(always: Sequence[Course], choices: Mapping[str, Sequence[Course]], subtitle: str = "") -> Figure:
    """Singular values with one frame per epoch, and below them the effective rank with a marker at that epoch.

    A menu shows one set of ``choices`` at a time, at first the first, and the courses of ``always`` with every one.
    """
    drawn: list[tuple[str | None, Course]] = [(None, course) for course in always]
    drawn += [(choice, course) for choice, members in choices.items() for course in members]
    courses = [course for _, course in drawn]
    columns = [matrix for matrix in PANELS if any(course.matrix == matrix for course in courses)]
    lines = _lines(dict.fromkeys(course.layer for course in courses))
    figure = make_subplots(
        rows=2,
        cols=len(columns),
        column_titles=[PANELS[matrix] for matrix in columns],
        row_heights=[0.62, 0.38],
        horizontal_spacing=0.07,
        vertical_spacing=0.13,
    )
    for choice, course in drawn:
        for row, trace in zip((1, 2, 2), _traces(course, lines[course.layer]), strict=True):
            trace["visible"] = choice in (None, next(iter(choices), None))
            figure.add_trace(trace, row=row, col=columns.index(course.matrix) + 1)
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
    moving = [3 * index + trace for index in range(len(drawn)) for trace in (0, 2)]
    moved = [[trace for course in courses for trace in _moved(course, epoch)] for epoch in range(epochs)]
    figure.frames = [{"name": str(epoch), "data": data, "traces": moving} for epoch, data in enumerate(moved)]
    menus = [_play(epochs)]
    if len(choices) > 1:
        menus.append(_menu([choice for choice, _ in drawn], list(choices), len(lines)))
    figure.update_layout(sliders=[_slider(epochs)], updatemenus=menus)
    width = 100 + 200 * len(columns)
    return finish(figure, "Spectra", height=800, min_width=width, subtitle=subtitle, margins=(130, 150))


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


def _moved(course: Course, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shares at an epoch, and the marker on the effective rank; zeros are gaps.

    A course that ended earlier stays at its last epoch.
    """
    last = min(epoch, len(course.shares) - 1)
    shares = [share or None for share in course.shares[last]]
    return {"type": "scatter", "y": shares}, {"type": "scatter", "x": [last], "y": [course.effective_rank[last]]}


def _traces(course: Course, line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Shares, effective rank and marker at the first epoch; a frame moves the first and the last."""
    (shares, marker), count = _moved(course, 0), len(course.shares[0])
    indices, size = list(range(1, count + 1)), 4 if count > 16 else 6
    epochs, ranks = list(range(len(course.shares))), list(course.effective_rank)
    traces = {
        "s<sub>%{x}</sub> / Σ s = %{y:.3g}": {
            **shares,
            "x": indices,
            "mode": "lines+markers",
            "marker": {"size": size},
        },
        "epoch %{x}: effective rank %{y:.2f}": {"x": epochs, "y": ranks, "mode": "lines"},
        "%{y:.2f}": {**marker, "mode": "markers", "marker": {"size": 9}},
    }
    name = short(course.layer, 80)
    common = {"name": name, "legendgroup": course.layer, "showlegend": False, "line": line}
    return [
        {**common, "marker_color": line["color"], "hovertemplate": f"{name}<br>{hover}<extra></extra>", **trace}
        for hover, trace in traces.items()
    ]


def _animate(milliseconds: float) -> dict[str, Any]:
    frame = {"duration": milliseconds, "redraw": False}
    return {"mode": "immediate", "fromcurrent": True, "frame": frame, "transition": {"duration": 0}}


def _play(epochs: int) -> dict[str, Any]:
    low, high = FRAME
    milliseconds = min(max(1000 * SECONDS / epochs, low), high)
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, _animate(milliseconds)]},
        {"label": "Pause", "method": "animate", "args": [[None], _animate(0)]},
    ]
    look = {"type": "buttons", "direction": "left", "showactive": False, "pad": {"t": 78}}
    return {"buttons": buttons, **look, **LEFT, **BELOW}


def _slider(epochs: int) -> dict[str, Any]:
    steps = [{"label": str(epoch), "method": "animate", "args": [[str(epoch)], _animate(0)]} for epoch in range(epochs)]
    return {"steps": steps, "currentvalue": {"prefix": "epoch "}, "len": 0.8, "pad": {"t": 52}, **RIGHT, **BELOW}


def _menu(choice_of_course: Sequence[str | None], choices: Sequence[str], legends: int) -> dict[str, Any]:
    """A menu that shows one choice, what is always shown, and the legend."""

    def button(choice: str) -> dict[str, Any]:
        visible = [shown in (None, choice) for shown in choice_of_course for _ in range(3)] + [True] * legends
        return {"label": short(choice, 48), "method": "restyle", "args": [{"visible": visible}]}

    return {"buttons": [button(choice) for choice in choices], **RIGHT, "y": 1.09, "yanchor": "bottom"}
