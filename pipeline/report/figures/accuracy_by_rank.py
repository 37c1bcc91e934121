"""The accuracy of each rank."""

from collections.abc import Sequence

from plotly.subplots import make_subplots

from pipeline.report.figures.axes import rank_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import hover, rank_tick, words
from pipeline.report.figures.shown_scores import (
    UNTESTED,
    accuracy_axis,
    add_winners,
    draw_references,
    score_text,
    winners_by_init,
)
from pipeline.report.figures.style import finish, look_of
from pipeline.results.combination_result import CombinationResult
from pipeline.results.comparison import Scores, compared_part


@PICTURES.register("accuracy_by_rank")
class AccuracyByRank(Picture):
    """Accuracy against rank, one line per combination and init."""

    order = 10
    title = "{Accuracy} by {rank}"
    reading = (
        "The best trial of each {rank} and init. If it was trained and tested under several seeds, the mark is the "
        "mean, and the thick bar reaches from the lowest to the highest seed: the variation of training. The thin "
        "whisker is the 95 % Wilson interval of one test at that {accuracy}: the variation that comes from the "
        "choice of test images. Grey lines are the original model (thick) and the compressed-only models (thin). The "
        "axis is logarithmic in the error, so that small differences near 100 % stay visible."
    )
    main = True
    on_dashboard = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part, look, figure, shown = compared_part(results), look_of(results), make_subplots(), list[Scores]()
        for result, init, winners in winners_by_init(results, look, part):
            ranks = [rank_tick(result, cell.cell.rank) for cell, _ in winners]
            scores = [one for _, one in winners]
            texts = [hover(result, cell, score_text(one)) for cell, one in winners]
            trace = {"mode": "lines+markers", "offsetgroup": f"{result.label} {init}", **look.trace(result.label, init)}
            add_winners(figure, ranks, scores, texts, **trace)
            shown += scores
        if not shown:
            raise NothingToDraw("no trial has completed yet")
        look.legend(figure)
        shown += draw_references(figure, look, results, part)
        figure.update_xaxes(rank_axis(results))
        figure.update_yaxes(accuracy_axis(results, part, shown))
        # The cells of a rank are side by side, so that their intervals do not overlap.
        figure.update_layout(scattermode="group", scattergap=0.7)
        return finish(figure, "{Accuracy} by {rank}".format(**words(results)), subtitle=UNTESTED[part])
