"""Axes, their ticks and panels. Accuracy axes are logarithmic in the error, which spreads out the values near 100 %."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from plotly.subplots import make_subplots

from pipeline.report.figures.contract import Figure
from pipeline.report.figures.labels import measured, rank_tick, told_apart
from pipeline.results.combination_result import CombinationResult

STEPS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
"""Ticks of a logarithmic axis within one decade, from sparse to dense."""


def log_axis(values: Iterable[float], *, reverse: bool = False) -> dict[str, Any]:
    """Range and ticks of a logarithmic axis around positive ``values``, with at least four ticks."""
    values = list(values)
    low, high = min(values) / 1.12, max(values) * 1.12
    ends = [math.log10(low), math.log10(high)]
    return {"type": "log", "range": ends[::-1] if reverse else ends, "tickvals": log_ticks(low, high)}


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis from ``low`` to ``high``, at least four; evenly spaced where the two are near."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for step in STEPS:
        ticks = [float(f"{m * 10.0**d:.9g}") for d in decades for m in step if low <= m * 10.0**d <= high]
        if len(ticks) >= 4:
            return ticks
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Round ticks from ``low`` to ``high``: four to ten."""
    rough = (high - low) / 4
    exponent = math.floor(math.log10(rough))
    step = max(factor * 10.0**exponent for factor in (0.5, 1, 2, 5) if factor * 10.0**exponent <= rough)
    return [round(n * step, 1 - exponent) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def whole_steps(last: int) -> dict[str, int]:
    """Ticks of an axis that counts up to ``last``: round whole numbers, seven at most."""
    decade = 10 ** math.floor(math.log10(max(1, last / 6)))
    return {"tick0": 0, "dtick": next(step * decade for step in (1, 2, 5, 10) if step * decade * 6 >= last)}


def error(accuracy: float, images: int) -> float:
    """The share of wrong answers in percent; at least half an image, because a logarithmic axis has no zero."""
    return 100 * max(1 - accuracy, 0.5 / images)


def accuracy_text(error: float) -> str:
    return f"{100 - error:.6g}"


def error_axis(errors: Sequence[float]) -> dict[str, Any]:
    """An accuracy axis around errors in percent, with the smallest error at the top."""
    axis = log_axis(errors, reverse=True)
    return {**axis, "ticktext": [accuracy_text(tick) for tick in axis["tickvals"]]}


def part_name(results: Sequence[CombinationResult], part: str) -> str:
    """The title of an accuracy axis."""
    return f"{'Test' if part == 'test' else 'Validation'} {measured(results)} (%)"


def rank_axis(results: Sequence[CombinationResult]) -> dict[str, Any]:
    """An axis of every rank that has a complete trial: first adapters without ranks, then ranks, then budgets."""
    found = {
        (result.budget_unit or "", cell.cell.rank): rank_tick(result, cell.cell.rank)
        for result in results
        for cell in result.cells
        if cell.best
    }
    names = list(dict.fromkeys(found[key] for key in sorted(found, key=lambda key: (key[1] > 0, *key))))
    units = dict.fromkeys(
        f"Budget ({result.budget_unit})" if result.budget_unit else "Rank"
        for result in results
        if any(cell.cell.rank for cell in result.cells)
    )
    title = " or ".join(units) or "No ranks"
    return {"title": title, "type": "category", "categoryorder": "array", "categoryarray": names}


def layer_panels(layers: Sequence[str], titles: Sequence[str]) -> Figure:
    """Panels side by side, each with a title and one row per layer, the first layer at the top; names at the left."""
    figure = make_subplots(cols=len(titles), shared_yaxes=True, horizontal_spacing=0.03, column_titles=list(titles))
    figure.update_yaxes(range=[len(layers) - 0.4, -0.6], tickfont={"size": 11}, showgrid=False, zeroline=False)
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=told_apart(layers), col=1)
    return figure
