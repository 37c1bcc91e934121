"""How the best trials were trained."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from plotly.subplots import make_subplots

from pipeline.report.figures.contract import Figure, NothingToDraw, picture
from pipeline.report.figures.look import Look, finish, look_of, ranks_of, whole_steps
from pipeline.report.rows import EpochRow
from pipeline.report.tables import epoch_rows
from pipeline.search.results import CombinationResult


@picture(
    place=30,
    title="The best trials, epoch by epoch",
    says="A column for each rank. Dotted lines are the loss on the training part, all others are measured on the "
    "validation part; the large mark is the epoch whose weights are kept.",
)
def epochs(results: Sequence[CombinationResult]) -> Figure:
    """Loss and validation accuracy per epoch of each cell's best trial, a column for each rank."""
    look, ranks, rows = look_of(results), ranks_of(results), epoch_rows(results)
    if not rows:
        raise NothingToDraw("no trial has completed yet")
    figure = make_subplots(
        rows=2,
        cols=len(ranks),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=[f"rank {rank}" for rank in ranks],
        horizontal_spacing=0.02,
        vertical_spacing=0.06,
    )
    named: set[str] = set()
    for (combination, rank, init), own in groupby(rows, lambda row: (row["combination"], row["rank"], row["init"])):
        name = look.name(combination, init)
        for row, trace in _traces(look, name, list(own)):
            shown = row == 2 and name not in named
            figure.add_scatter(**trace, showlegend=shown, row=row, col=ranks.index(rank) + 1)
        named.add(name)
    figure.update_xaxes(whole_steps(max(row["epoch"] for row in rows)))
    figure.update_xaxes(title="Epoch", row=2)
    figure.update_yaxes(title="Loss", row=1, col=1)
    figure.update_yaxes(title="Validation accuracy (%)", row=2, col=1)
    return finish(figure, "Loss and accuracy by epoch", height=640)


def _traces(look: Look, name: str, rows: list[EpochRow]) -> list[tuple[int, dict[str, Any]]]:
    """Training loss, validation loss and validation accuracy of one trial, each with the row of its panel."""
    ink, sizes = look.ink(rows[0]["init"]), [11 if row["best"] else 5 for row in rows]
    symbol = {"symbol": look.symbol(rows[0]["combination"]), "size": sizes, "opacity": 1, "line": {"width": 0}}
    solid = {"color": ink, "width": 1.5, "dash": look.dash(rows[0]["combination"])}
    drawn = (
        (1, "training loss", [row["train_loss"] for row in rows], {**solid, "dash": "dot"}, {"size": 0.1}),
        (1, "validation loss", [row["val_loss"] for row in rows], solid, symbol),
        (2, "validation accuracy", [100 * row["val_accuracy"] for row in rows], solid, symbol),
    )
    head = f"{name}<br>trial {rows[0]['trial']}, epoch %{{x}}<br>"
    return [
        (
            row,
            {
                "x": [one["epoch"] for one in rows],
                "y": values,
                "mode": "lines+markers",
                "name": name,
                "legendgroup": name,
                "line": line,
                "marker": marker,
                "hovertemplate": f"{head}{what} %{{y:.4g}}<extra></extra>",
            },
        )
        for row, what, values, line, marker in drawn
    ]
