"""What each rank wins back."""

from collections.abc import Sequence
from typing import Any

from plotly.subplots import make_subplots

from pipeline.report.figures.accuracy import Shown, accuracy_axis, cell_score, error_bars, shown, shown_part
from pipeline.report.figures.contract import Figure, NothingToDraw, picture
from pipeline.report.figures.look import Look, finish, hover, look_of, ranks_of
from pipeline.search.results import CellResult, CombinationResult


@picture(
    place=10,
    title="Accuracy by rank",
    says="The best trial of each rank and init, with its 95 % Wilson interval; small open marks are the same values "
    "trained under other seeds. Lines show the original model and the models that are only compressed. The axis is "
    "spaced by the logarithm of the error, so that small differences near 100 % stay visible.",
)
def accuracy_by_rank(results: Sequence[CombinationResult]) -> Figure:
    """Accuracy against rank, a line for each combination and init."""
    part, look, ranks = shown_part(results), look_of(results), [str(rank) for rank in ranks_of(results)]
    figure, scores = make_subplots(), []
    for result in results:
        for init in look.inits:
            drawn = [
                (cell, shown(score))
                for cell in sorted(result.cells, key=lambda cell: cell.cell.rank)
                if cell.cell.init == init and (score := cell_score(result, cell, part))
            ]
            if drawn:
                figure.add_scatter(**_line(look, result, init, drawn))
                scores += [one for _, one in drawn]
                scores += _draw_seeds(figure, look, result, drawn) if part == "test" else []
    if not scores:
        raise NothingToDraw("no trial has completed yet")
    scores += _draw_references(figure, look, results, part)
    figure.update_xaxes(title="Rank", type="category", categoryorder="array", categoryarray=ranks)
    figure.update_yaxes(accuracy_axis(part, scores))
    # Cells of one rank stand side by side, so that their intervals can be told apart.
    figure.update_layout(scattermode="group", scattergap=0.6)
    return finish(figure, "Accuracy by rank", height=560)


def _line(look: Look, result: CombinationResult, init: str, drawn: list[tuple[CellResult, Shown]]) -> dict[str, Any]:
    return {
        "x": [str(cell.cell.rank) for cell, _ in drawn],
        "y": [one.y for _, one in drawn],
        "error_y": error_bars([one for _, one in drawn], width=3),
        "mode": "lines+markers",
        "name": look.name(result.name, init),
        "offsetgroup": f"{result.name} {init}",
        "legendgroup": f"{result.name} {init}",
        "line": {"color": look.ink(init), "dash": look.dash(result.name), "width": 1.5},
        "marker": {"symbol": look.symbol(result.name), "size": 9},
        "hovertext": [hover(result, cell, one.text, *_spread(cell)) for cell, one in drawn],
        "hoverinfo": "text",
    }


def _spread(cell: CellResult) -> list[str]:
    spread = cell.test_spread()
    return [f"test over {len(cell.tested)} seeds: {spread[0]:.2%} ± {spread[1]:.2%}"] if spread else []


def _draw_seeds(
    figure: Figure, look: Look, result: CombinationResult, drawn: list[tuple[CellResult, Shown]]
) -> list[Shown]:
    """The test scores of the winners' values under other seeds."""
    others = [(cell, tested.seed, shown(tested.test)) for cell, _ in drawn for tested in cell.tested[1:]]
    if others:
        init = drawn[0][0].cell.init
        figure.add_scatter(
            x=[str(cell.cell.rank) for cell, _, _ in others],
            y=[one.y for _, _, one in others],
            mode="markers",
            offsetgroup=f"{result.name} {init}",
            legendgroup=f"{result.name} {init}",
            showlegend=False,
            marker={"symbol": f"{look.symbol(result.name)}-open", "size": 6, "color": look.ink(init)},
            hovertext=[hover(result, cell, f"seed {seed}: {one.text}") for cell, seed, one in others],
            hoverinfo="text",
        )
    return [one for _, _, one in others]


def _draw_references(figure: Figure, look: Look, results: Sequence[CombinationResult], part: str) -> list[Shown]:
    """Lines of the original model, the same for all combinations, and of each model that is only compressed."""
    lines = [("original", "#000000", "solid", result.baseline[part]) for result in results if part in result.baseline]
    lines[1:] = [
        (look.compressed_name(result.name), "#888888", look.dash(result.name), result.compressed[part])
        for result in results
        if part in result.compressed
    ]
    for name, ink, dash, score in lines:
        figure.add_hline(
            y=shown(score).y,
            line={"color": ink, "dash": dash, "width": 1.5},
            name=f"{name}: {score.accuracy:.2%}",
            showlegend=True,
        )
    return [shown(score) for *_, score in lines]
