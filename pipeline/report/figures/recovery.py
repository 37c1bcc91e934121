"""The share of the lost accuracy that was recovered."""

from collections.abc import Sequence
from itertools import chain

from plotly.subplots import make_subplots

from pipeline.report.figures.axes import rank_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import hover, measured, rank_tick, rank_word
from pipeline.report.figures.shown_scores import UNTESTED, over_seeds, score_text, winners_by_init
from pipeline.report.figures.style import finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.comparison import Scores, cell_recovery, compared_part, lost, recovery


@PICTURES.register("recovery")
class Recovery(Picture):
    """Recovery in percent against rank, one line per combination and init."""

    order = 15
    title = "Recovery by {rank}"
    reading = (
        "The share of the lost {accuracy} that the best trial of each {rank} and init restored: (recovered - "
        "compressed) / (original - compressed). The line at 100 % is the original model; at 0 % nothing is restored. "
        "With several seeds the mark is their mean, and the bar reaches from the lowest to the highest seed. "
        "Combinations whose compressed model lies within the 95 % interval of the original are left out: their loss "
        "may be chance."
    )
    main = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part, look, figure, ratios = compared_part(results), look_of(results), make_subplots(), list[float]()
        compressed = [one for one in results if part in one.baseline and part in one.compressed]
        lossy = [one for one in compressed if lost(one.baseline[part], one.compressed[part])]
        lossless = [one.label for one in compressed if one not in lossy]
        for result, init, winners in winners_by_init(lossy, look, part):
            shares = [_recovered(result, *winner, part) for winner in winners]
            figure.add_scatter(
                x=[rank_tick(result, cell.cell.rank) for cell, _ in winners],
                y=[mean for mean, _, _ in shares],
                error_y={
                    "array": [high - mean for mean, _, high in shares],
                    "arrayminus": [mean - low for mean, low, _ in shares],
                    "width": 0,
                    "thickness": 5,
                },
                mode="lines+markers",
                offsetgroup=f"{result.label} {init}",
                hovertext=[
                    hover(result, cell, _text(scores, *share), score_text(scores))
                    for (cell, scores), share in zip(winners, shares, strict=True)
                ],
                hoverinfo="text",
                **look.trace(result.label, init),
            )
            ratios += chain.from_iterable(shares)
        said = f"Left out, because their loss may be chance: {', '.join(lossless)}" if lossless else ""
        if not ratios:
            raise NothingToDraw(said.lower() or "no trial has completed yet")
        look.legend(figure)
        figure.add_hline(y=100, line={"color": NEUTRAL, "width": 3}, name="original: 100 %", showlegend=True)
        figure.update_xaxes(rank_axis(results))
        low, high = min(*ratios, 100), max(*ratios, 100)
        margin = max(0.06 * (high - low), 0.5)
        title = f"Recovered {'test' if part == 'test' else 'validation'} {measured(results)} (%)"
        figure.update_yaxes(title=title, range=[low - margin, high + margin])
        figure.update_layout(scattermode="group", scattergap=0.7)
        return finish(
            figure, f"Recovery by {rank_word(results)}", subtitle=". ".join(filter(None, (UNTESTED[part], said)))
        )


def _recovered(result: CombinationResult, cell: CellResult, scores: Scores, part: str) -> tuple[float, float, float]:
    """The recovery in percent: over all seeds, of the lowest seed, and of the highest."""
    original, compressed = result.baseline[part], result.compressed[part]
    low, high = (recovery(original, compressed, accuracy) for accuracy in scores.ends)
    return 100 * (cell_recovery(result, cell, part) or 0.0), 100 * (low or 0.0), 100 * (high or 0.0)


def _text(scores: Scores, mean: float, low: float, high: float) -> str:
    return f"{mean:.1f} % recovered{over_seeds(scores, f'{low:.1f} %', f'{high:.1f} %')}"
