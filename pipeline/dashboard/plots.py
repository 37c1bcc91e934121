"""The pictures for optuna-dashboard, as compact plotly JSON."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pipeline.report.figures.contract import Figure
from pipeline.results.combination_result import CombinationResult

DIGITS = 6
"""Significant digits of numbers; a screen shows four."""
OTHER_AXES = ("coloraxis", "colorscale", "geo", "map", "mapbox", "polar", "scene", "smith", "ternary")
"""Parts of plotly's template that are for other kinds of pictures."""


def draw_plots(results: Sequence[CombinationResult]) -> dict[str, str]:
    """The pictures of some combinations by id; empty before the first complete trial."""
    from pipeline.report.figures.contract import NothingToDraw, pictures  # plotly takes a while to import
    from pipeline.report.figures.style import alone

    drawn = {}
    for picture in pictures():
        if picture.on_dashboard:
            with suppress(NothingToDraw):
                drawn[picture.name] = compact(alone(picture.draw(results)))
    return drawn


def compact(figure: Figure) -> str:
    """A figure as JSON that fills its place on the page, without the parts of its template that it does not use."""
    table: dict[str, Any] = json.loads(figure.to_json())
    layout = table["layout"]
    layout.pop("height", None)  # the dashboard sets it
    if "template" in layout:
        template, kinds = layout["template"], {trace["type"] for trace in table["data"]}
        traces = {kind: value for kind, value in template.get("data", {}).items() if kind in kinds}
        axes = {name: value for name, value in template.get("layout", {}).items() if name not in OTHER_AXES}
        layout["template"] = {"data": traces, "layout": axes}
    return json.dumps(_rounded(table), separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(element) for element in value]
    return {key: _rounded(element) for key, element in value.items()} if isinstance(value, dict) else value
