"""The parameters of trials: every trial's values at once, and the importance of each parameter."""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from plotly.subplots import make_subplots

from pipeline.report.figures.axes import accuracy_text, error, linear_ticks, log_ticks
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import cut, measured, rank_tick, rank_word, short
from pipeline.report.figures.shown_scores import validated_on
from pipeline.report.figures.style import OVER, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult
from pipeline.wording import init_name

SCALE = ((0, "#0072B2"), (0.25, "#5F72A4"), (0.5, "#8E6F8B"), (0.75, "#B4685F"), (1, "#D55E00"))
"""From worse to better, by hue: a scale by lightness would end in yellow on white or in blue on black."""
WIDTH = 96
"""Pixels between two axes."""
NO_VALUE = "-"
Row = tuple[CombinationResult, FrozenTrial]


@PICTURES.register("parallel_coordinates")
class ParallelCoordinates(Picture):
    """Parallel coordinates of all complete trials, coloured by validation accuracy."""

    order = 45
    title = "All trials"
    reading = (
        "One line per complete trial, from the values that it was trained with to its validation {accuracy}; better "
        "trials are orange, worse ones blue. Drag along an axis to show only the lines that pass there; drag the "
        "name of an axis to move it. Values that are the same in all trials are left out; - marks trials without "
        "such a value."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        rows = [(result, trial) for result in results for trial in result.trials(TrialState.COMPLETE)]
        if not rows:
            raise NothingToDraw("no trial has completed yet")
        # The best is drawn last, above the others.
        rows.sort(key=lambda row: row[1].value or 0.0)
        dimensions = [dimension for dimension in _dimensions(results, rows) if dimension]
        if not dimensions:
            raise NothingToDraw("all complete trials have the same values")
        height = np.array([-math.log10(error(trial.value or 0.0, validated_on(result))) for result, trial in rows])
        low, high = float(height.min()), float(height.max())
        ticks = log_ticks(10 ** -(high + 0.02), 10 ** -(low - 0.02))
        last = {
            "label": f"{measured(results)} (%)",
            "values": height.astype(np.float32),
            "range": [low - 0.02, high + 0.02],
            "tickvals": [-math.log10(tick) for tick in ticks],
            "ticktext": [accuracy_text(tick) for tick in ticks],
        }
        color = {"color": last["values"], "colorscale": SCALE, "cmin": low, "cmax": high, "showscale": False}
        hidden = {"size": 1, "color": "rgba(0,0,0,0)"}
        figure = make_subplots()
        # Plotly gives the ticks of these axes no room on the left.
        left, width = 20 + 6 * max(map(len, dimensions[0]["ticktext"])), 140 + WIDTH * len(dimensions)
        domain = {"x": [left / width, 1 - 40 / width]}
        figure.add_parcoords(dimensions=[*dimensions, last], line=color, rangefont=hidden, domain=domain)
        finish(figure, "All trials", height=480, min_width=width, margins=(100, 20))
        return figure.update_layout(margin={"l": 10, "r": 10})


def _dimensions(results: Sequence[CombinationResult], rows: Sequence[Row]) -> list[dict[str, Any] | None]:
    """One axis per parameter, in the order in which trials name them; None for one that is the same in all trials."""
    named = {
        (result.budget_unit or "", cell.cell.rank): rank_tick(result, cell.cell.rank)
        for result in results
        for cell in result.cells
    }
    ranks = [(result.budget_unit or "", trial.params["rank"]) for result, trial in rows]
    inits = {cell.cell.init: cut(init_name(cell.cell.init), 16) for result in results for cell in result.cells}
    return [
        _choice(
            "combination", [result.label for result, _ in rows], {one.label: cut(one.label, 20) for one in results}
        ),
        _choice(rank_word(results), ranks, dict(sorted(named.items()))),
        _choice("init", [trial.params["init"] for _, trial in rows], inits),
        *(
            _value(name, [trial for _, trial in rows])
            for name in dict.fromkeys(chain(*(t.params for _, t in rows)))
            if name not in ("rank", "init")
        ),
    ]


def _value(name: str, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    values = [trial.params.get(name) for trial in trials]
    space = [trial.distributions[name] for trial in trials if name in trial.params]
    if isinstance(space[0], FloatDistribution):
        return _number(name, values, log=space[0].log)
    choices = dict.fromkeys(chain(*(one.choices for one in space if isinstance(one, CategoricalDistribution))))
    return _choice(name, values, {choice: cut(str(choice), 16) for choice in choices})


def _choice(name: str, values: Sequence[Hashable], names: Mapping[Any, str]) -> dict[str, Any] | None:
    """An axis with one tick per choice that was tried."""
    if len(set(values)) == 1:
        return None
    tried = [choice for choice in names if choice in set(values)]
    positions = {choice: index for index, choice in enumerate([None, *tried] if None in values else tried)}
    return {
        "label": name.replace("_", " "),
        "values": np.array([positions[value] for value in values], dtype=np.int16),
        "range": [-0.2, len(positions) - 0.8],
        "tickvals": list(positions.values()),
        "ticktext": [NO_VALUE if choice is None else names[choice] for choice in positions],
    }


def _number(name: str, values: Sequence[float | None], *, log: bool) -> dict[str, Any] | None:
    """An axis of numbers; the line of a trial without a value passes below them."""
    if len(set(values)) == 1:
        return None
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    numbers = [low] if low == high else log_ticks(low, high) if log else linear_ticks(low, high)
    at: Callable[[float], float] = math.log10 if log else float
    start, end = at(low), at(high)
    span = end - start or 1.0
    below, margin = start - 0.15 * span, 0.03 * span
    ticks = {at(number): f"{number:g}" for number in numbers}
    if len(known) < len(values):
        ticks = {below: NO_VALUE} | ticks
    return {
        "label": f"{name.replace('_', ' ')}{' (log)' if log else ''}",
        "values": np.array([below if value is None else at(value) for value in values], dtype=np.float32),
        "range": [min(*ticks, start) - margin, end + margin],
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
    }


@PICTURES.register("importances")
class Importances(Picture):
    """Optuna's importances of all parameters that vary, one group of bars per combination."""

    order = 50
    title = "What mattered"
    reading = (
        "Optuna's parameter importances (PED-ANOVA) over the complete trials of a combination: how much each "
        "parameter explains of what sets the best tenth of the trials apart from the others. With few trials this is "
        "only a hint."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        look, figure, reasons = look_of(results), make_subplots(), []
        for result in results:
            try:
                shares = _shares(result)
                pattern = {**OVER, "shape": look.pattern(result.label)}
                figure.add_bar(
                    x=list(shares.values())[::-1],
                    y=list(shares)[::-1],
                    orientation="h",
                    name=short(result.label),
                    hovertemplate="%{y}: %{x:.3f}<extra></extra>",
                    marker={"color": NEUTRAL, "line": {"width": 0}, "pattern": pattern},
                )
            except NothingToDraw as reason:
                reasons.append(f"{result.label}: {reason}")
        if not figure.data:
            raise NothingToDraw("; ".join(reasons))
        figure.update_xaxes(title="Importance (share of 1)", rangemode="tozero")
        figure.update_yaxes(title="Parameter")
        figure.update_layout(bargap=0.3, showlegend=len(figure.data) > 1)
        rows = len({name for bars in figure.data for name in bars.y})
        height = 170 + rows * (20 + 14 * len(figure.data))
        said = f"No importances for {'; '.join(reasons)}" if reasons else ""
        return finish(figure, "What mattered", height=height, subtitle=said)


def _shares(result: CombinationResult) -> dict[str, float]:
    """Optuna's importances, the largest first.

    Raises:
        NothingToDraw: There are too few complete trials, or they do not differ.
    """
    from optuna.importance import get_param_importances  # takes a second to import

    trials = result.trials(TrialState.COMPLETE)
    if len(trials) < 2:
        raise NothingToDraw(f"importances need two complete trials, there {('are none', 'is one')[len(trials)]}")
    varied = [name for name in trials[0].params if len({trial.params[name] for trial in trials}) > 1]
    if not varied:
        raise NothingToDraw("all complete trials have the same values")
    with warnings.catch_warnings():
        # Optuna warns if it cannot tell the parameters apart, and then returns equal importances.
        warnings.simplefilter("error", UserWarning)
        try:
            return get_param_importances(result.study, params=varied)
        except UserWarning:
            raise NothingToDraw("the complete trials do not differ enough in accuracy") from None
