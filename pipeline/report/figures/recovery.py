"""The share of the lost accuracy that was recovered."""

from collections.abc import Sequence
from typing import ClassVar

from plotly.subplots import make_subplots

from pipeline.report.figures.axes import rank_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import hover, measured, rank_tick, rank_word
from pipeline.report.figures.shown_scores import UNTESTED, Shown, cell_score
from pipeline.report.figures.style import Look, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.comparison import cell_recovery, compared_part, lost
from pipeline.results.comparison import recovery as regained

Recovered = tuple[CellResult, Shown, float, list[float]]
"""A cell, its scores, its recovery in percent, and the recovery under each seed."""


@PICTURES.register("recovery")
class Recovery(Picture):
    """Recovery in percent against rank, one line per combination and init."""

    order: ClassVar = 15
    title: ClassVar = "Recovery by {rank}"
    reading: ClassVar = (
        "The share of the lost {accuracy} that the best trial of each {rank} and init restored: (recovered - "
        "compressed) / (original - compressed). The line at 100 % is the original model; at 0 % nothing is restored. "
        "With several seeds the mark is their mean, and the bar reaches from the lowest to the highest seed. "
        "Combinations whose compressed model lies within the 95 % interval of the original are left out: their loss "
        "may be chance."
    )
    main: ClassVar = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part, look, figure = compared_part(results), look_of(results), make_subplots()
        ratios, lossless = list[float](), list[str]()
        for result in results:
            if part not in result.baseline or part not in result.compressed:
                continue
            if not lost(result.baseline[part], result.compressed[part]):
                lossless.append(result.label)
                continue
            for init in look.inits:
                recovered = _of(result, init, part)
                if recovered:
                    _draw(figure, look, result, init, recovered)
                    ratios += [ratio for *_, of_seeds in recovered for ratio in of_seeds]
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


def _of(result: CombinationResult, init: str, part: str) -> list[Recovered]:
    original, compressed = result.baseline[part], result.compressed[part]
    return [
        (
            cell,
            shown,
            100 * (cell_recovery(result, cell, part) or 0.0),
            [100 * (regained(original, compressed, score.accuracy) or 0.0) for score in shown.scores],
        )
        for cell in sorted(result.cells, key=lambda cell: cell.cell.rank)
        if cell.cell.init == init and (shown := cell_score(result, cell, part))
    ]


def _draw(figure: Figure, look: Look, result: CombinationResult, init: str, cells: Sequence[Recovered]) -> None:
    upper = [max(ratios) - ratio for *_, ratio, ratios in cells]
    lower = [ratio - min(ratios) for *_, ratio, ratios in cells]
    figure.add_scatter(
        x=[rank_tick(result, cell.cell.rank) for cell, *_ in cells],
        y=[ratio for *_, ratio, _ in cells],
        error_y={"array": upper, "arrayminus": lower, "width": 0, "thickness": 5},
        mode="lines+markers",
        offsetgroup=f"{result.label} {init}",
        legendgroup=init,
        showlegend=False,
        line={"color": look.ink(init), "dash": look.dash(result.label), "width": 1.5},
        marker={"symbol": look.symbol(result.label, init), "size": 9},
        hovertext=[
            hover(result, cell, _text(shown, ratio, ratios), shown.text) for cell, shown, ratio, ratios in cells
        ],
        hoverinfo="text",
    )


def _text(shown: Shown, ratio: float, ratios: Sequence[float]) -> str:
    return f"{ratio:.1f} % recovered{shown.over_seeds(f'{min(ratios):.1f} %', f'{max(ratios):.1f} %')}"
