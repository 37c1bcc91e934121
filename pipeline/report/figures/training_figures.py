"""The training of the best trials, and the progress of the search."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from optuna.trial import TrialState
from plotly.subplots import make_subplots

from pipeline.report.figures.axes import error, error_axis, rank_axis, whole_steps
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import measured, rank_tick, rank_word, short
from pipeline.report.figures.shown_scores import validated_on
from pipeline.report.figures.style import Look, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult
from pipeline.results.tables import EpochRow, epoch_rows
from pipeline.wording import cell_name, rank_name

COLUMNS = 3
"""The most panels beside each other."""


@PICTURES.register("epochs")
class Epochs(Picture):
    """Losses and validation accuracy of each cell's best trial per epoch, one column per rank."""

    order = 30
    title = "The best trials, epoch by epoch"
    reading = (
        "The best trial of each cell, with one column per {rank}: training loss, validation loss and validation "
        "{accuracy}. The large mark is the epoch whose weights are kept."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        look, ranks = look_of(results), list(rank_axis(results)["categoryarray"])
        if not ranks:
            raise NothingToDraw("no trial has completed yet")
        heads = {
            rank_tick(result, cell.cell.rank): rank_name(cell.cell.rank, result.budget_unit)
            for result in results
            for cell in result.cells
        }
        figure = make_subplots(
            rows=3,
            cols=len(ranks),
            shared_xaxes=True,
            shared_yaxes=True,
            column_titles=[heads[rank] for rank in ranks],
            horizontal_spacing=0.1 / max(len(ranks), 4),
            vertical_spacing=0.04,
            row_heights=[1, 1, 1.3],
        )
        longest = 1
        for result in results:
            for (rank, init), rows in groupby(epoch_rows([result]), lambda row: (row["rank"], row["init"])):
                own, column = list(rows), ranks.index(rank_tick(result, rank)) + 1
                longest = max(longest, len(own))
                for row, trace in enumerate(_traces(look, result, init, own), start=1):
                    figure.add_scatter(**trace, row=row, col=column)
        look.legend(figure)
        figure.update_xaxes(whole_steps(longest))
        figure.update_xaxes(title="Epoch", row=3)
        names = ("Training loss", "Validation loss", f"Validation {measured(results)} (%)")
        for row, name in enumerate(names, start=1):
            figure.update_yaxes(title=name, row=row, col=1)
        figure.update_yaxes(matches="y", row=2)  # the two losses on one scale
        return finish(figure, "The best trials, epoch by epoch", height=700, min_width=90 + 96 * len(ranks))


def _traces(look: Look, result: CombinationResult, init: str, rows: Sequence[EpochRow]) -> Iterator[dict[str, Any]]:
    """Training loss, validation loss and validation accuracy of one trial."""
    cell = short(cell_name(rows[0]["rank"], init, result.budget_unit), 80)
    head = f"{short(result.label, 80)}, {cell}<br>trial {rows[0]['trial']}"
    drawn = {
        "training loss": [row["train_loss"] for row in rows],
        "validation loss": [row["val_loss"] for row in rows],
        f"validation {result.metric}": [100 * row["val_accuracy"] for row in rows],
    }
    common = look.trace(result.label, init)
    sizes = np.array([10 if row["best"] else 0 for row in rows], dtype=np.uint8)
    common["marker"] |= {"size": sizes, "opacity": 1, "line": {"width": 1, "color": look.ink(init)}}
    for what, values in drawn.items():
        yield {
            **common,
            "x0": rows[0]["epoch"],
            "y": np.array(values, dtype=np.float32),
            "mode": "lines+markers",
            "hovertemplate": f"{head}, epoch %{{x}}<br>{what} %{{y:.4g}}<extra></extra>",
        }


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
            errors += _draw_history(figure, look, result, {"row": index // columns + 1, "col": index % columns + 1})
        figure.data[0].showlegend = True
        look.legend(figure)
        figure.update_xaxes(title="Trial")
        figure.update_yaxes(error_axis(errors))
        figure.update_yaxes(title=f"Validation {measured(results)} (%)", col=1)
        return finish(
            figure, "The search", height=150 + 320 * rows, min_width=100 + 240 * (columns - 1), margins=(84, 56)
        )


def _draw_history(figure: Figure, look: Look, result: CombinationResult, panel: Mapping[str, int]) -> list[float]:
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
