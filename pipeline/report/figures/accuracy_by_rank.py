"""The accuracy of each rank."""

from collections.abc import Sequence
from typing import ClassVar

from plotly.subplots import make_subplots

from pipeline.report.figures.axes import rank_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import hover, rank_tick, words
from pipeline.report.figures.shown_scores import (
    UNTESTED,
    Shown,
    accuracy_axis,
    cell_score,
    draw_references,
    seed_bars,
    whiskers,
)
from pipeline.report.figures.style import Look, finish, look_of
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.comparison import compared_part


@PICTURES.register("accuracy_by_rank")
class AccuracyByRank(Picture):
    """Accuracy against rank, one line per combination and init."""

    order: ClassVar = 10
    title: ClassVar = "{Accuracy} by {rank}"
    reading: ClassVar = (
        "The best trial of each {rank} and init. If it was trained and tested under several seeds, the mark is the "
        "mean, and the thick bar reaches from the lowest to the highest seed: the variation of training. The thin "
        "whisker is the 95 % Wilson interval of one test at that {accuracy}: the variation that comes from the "
        "choice of test images. Grey lines are the original model (thick) and the compressed-only models (thin). The "
        "axis is logarithmic in the error, so that small differences near 100 % stay visible."
    )
    main: ClassVar = True
    on_dashboard: ClassVar = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part, look, figure, scores = compared_part(results), look_of(results), make_subplots(), list[Shown]()
        for result in results:
            for init in look.inits:
                drawn = [
                    (cell, score)
                    for cell in sorted(result.cells, key=lambda cell: cell.cell.rank)
                    if cell.cell.init == init and (score := cell_score(result, cell, part))
                ]
                if drawn:
                    _draw(figure, look, result, init, drawn)
                    scores += [one for _, one in drawn]
        if not scores:
            raise NothingToDraw("no trial has completed yet")
        look.legend(figure)
        scores += draw_references(figure, look, results, part)
        figure.update_xaxes(rank_axis(results))
        figure.update_yaxes(accuracy_axis(results, part, scores))
        # The cells of a rank are side by side, so that their intervals do not overlap.
        figure.update_layout(scattermode="group", scattergap=0.7)
        return finish(figure, "{Accuracy} by {rank}".format(**words(results)), subtitle=UNTESTED[part])


def _draw(
    figure: Figure, look: Look, result: CombinationResult, init: str, drawn: list[tuple[CellResult, Shown]]
) -> None:
    """Draw the line of an init with its whiskers, and the thick bars of cells with several seeds."""
    common = {
        "offsetgroup": f"{result.label} {init}",
        "legendgroup": init,
        "showlegend": False,
        "line": {"color": look.ink(init), "dash": look.dash(result.label), "width": 1.5},
        "marker": {"symbol": look.symbol(result.label, init), "size": 9},
    }
    figure.add_scatter(
        x=[rank_tick(result, cell.cell.rank) for cell, _ in drawn],
        y=[one.y for _, one in drawn],
        error_y=whiskers([one for _, one in drawn]),
        mode="lines+markers",
        hovertext=[hover(result, cell, one.text) for cell, one in drawn],
        hoverinfo="text",
        **common,
    )
    several = [(cell, one) for cell, one in drawn if len(one.scores) > 1]
    if several:
        figure.add_scatter(
            x=[rank_tick(result, cell.cell.rank) for cell, _ in several],
            y=[one.y for _, one in several],
            error_y=seed_bars([one for _, one in several]),
            mode="markers",
            hoverinfo="skip",
            **common,
        )
