"""The training of the best trials."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from plotly.subplots import make_subplots

from pipeline.report.figures.axes import rank_axis, whole_steps
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import measured, rank_tick, short
from pipeline.report.figures.style import Look, finish, look_of
from pipeline.results.combination_result import CombinationResult
from pipeline.results.tables import EpochRow, epoch_rows
from pipeline.wording import cell_name, rank_name


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
