"""The progress of the search."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from optuna.trial import TrialState
from plotly.subplots import make_subplots

from pipeline.report.figures.axes import error, error_axis, whole_steps
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import measured, rank_tick, rank_word, short
from pipeline.report.figures.shown_scores import validated_on
from pipeline.report.figures.style import Look, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult

COLUMNS = 3
"""The most panels beside each other."""


@PICTURES.register("history")
class History(Picture):
    """Validation accuracy by trial, one panel per combination."""

    order = 40
    title = "The search"
    reading = (
        "Every complete trial of a combination in the order in which it was stored, and the best value so far. Cells "
        "search side by side, so {rank}s and inits alternate. The axis is logarithmic in the error."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        drawable = [result for result in results if any(cell.best for cell in result.cells)]
        if not drawable:
            raise NothingToDraw("no trial has completed yet")
        look, errors = look_of(results), list[float]()
        columns = min(len(drawable), COLUMNS)
        rows = math.ceil(len(drawable) / columns)
        figure = make_subplots(
            rows=rows,
            cols=columns,
            shared_yaxes=True,
            subplot_titles=[short(result.label, 22) for result in drawable] if len(drawable) > 1 else (),
            horizontal_spacing=0.03,
            vertical_spacing=0.3 / rows,
        )
        for index, result in enumerate(drawable):
            errors += _draw(figure, look, result, {"row": index // columns + 1, "col": index % columns + 1})
        figure.data[0].showlegend = True
        look.legend(figure)
        figure.update_xaxes(title="Trial")
        figure.update_yaxes(error_axis(errors))
        figure.update_yaxes(title=f"Validation {measured(results)} (%)", col=1)
        return finish(
            figure, "The search", height=150 + 320 * rows, min_width=100 + 240 * (columns - 1), margins=(84, 56)
        )


def _draw(figure: Figure, look: Look, result: CombinationResult, panel: Mapping[str, int]) -> list[float]:
    """The panel of one combination; returns the errors of its trials, in percent."""
    trials = result.trials(TrialState.COMPLETE)
    numbers = np.array([trial.number for trial in trials], dtype=np.int32)
    values = np.array([trial.value for trial in trials])
    errors = np.array([error(value, validated_on(result)) for value in values])
    ranks = np.array([rank_tick(result, trial.params["rank"]) for trial in trials])
    inits = np.array([trial.params["init"] for trial in trials])
    figure.add_scatter(
        x=numbers,
        y=np.minimum.accumulate(errors).astype(np.float32),
        customdata=np.maximum.accumulate(values).astype(np.float32),
        mode="lines",
        line={"color": NEUTRAL, "width": 2, "shape": "hv"},
        name="best so far",
        legendgroup="best so far",
        showlegend=False,
        hovertemplate="best so far: %{customdata:.2%}<extra></extra>",
        **panel,
    )
    for init in dict.fromkeys(inits.tolist()):
        chosen = inits == init
        figure.add_scatter(
            x=numbers[chosen],
            y=errors[chosen].astype(np.float32),
            text=ranks[chosen].tolist(),
            customdata=values[chosen].astype(np.float32),
            mode="markers",
            hovertemplate=f"trial %{{x}}, {rank_word([result])} %{{text}}<br>%{{customdata:.2%}}<extra></extra>",
            **look.trace(result.label, init, 7),
            **panel,
        )
    last = trials[-1].number
    figure.update_xaxes(whole_steps(last), tickangle=0, range=[-0.03 * last - 0.5, 1.03 * last + 0.5], **panel)
    return errors.tolist()  # type: ignore[no-any-return]
