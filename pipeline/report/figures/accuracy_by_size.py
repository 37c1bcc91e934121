"""The best accuracy for each size."""

from collections.abc import Sequence
from typing import Any

from plotly.subplots import make_subplots

from pipeline.report.figures.accuracy import Shown, accuracy_axis, cell_score, error_bars, shown, shown_part
from pipeline.report.figures.contract import Figure, NothingToDraw, picture
from pipeline.report.figures.look import Look, finish, hover, log_axis, look_of, readable_bytes
from pipeline.report.tables import pareto_front
from pipeline.search.results import CombinationResult, Score


@picture(
    place=20,
    title="Accuracy by size",
    says="The best trial of each cell against the bytes of the whole packed model. The grey steps join the cells that "
    "no other cell beats in both size and accuracy (the Pareto front).",
)
def accuracy_by_size(results: Sequence[CombinationResult]) -> Figure:
    """Accuracy against bytes of the packed model, with the Pareto front of all cells."""
    part, look = shown_part(results), look_of(results)
    figure, sizes, scores, points = make_subplots(), [], [], []
    for result in results:
        for init in look.inits:
            drawn = [
                (cell, cell.best.user_attrs["bytes"], score)
                for cell in result.cells
                if cell.cell.init == init and cell.best and (score := cell_score(result, cell, part))
            ]
            texts = [hover(result, cell, shown(score).text) for cell, _, score in drawn]
            if drawn:
                marks = [(size, shown(score)) for _, size, score in drawn]
                symbol = {"symbol": look.symbol(result.name), "color": look.ink(init), "size": 10}
                figure.add_scatter(**_points(look.name(result.name, init), marks, texts, symbol))
                sizes += [size for size, _ in marks]
                scores += [one for _, one in marks]
                points += [(size, score.accuracy) for _, size, score in drawn]
    if not points:
        raise NothingToDraw("no trial has completed yet")
    front = pareto_front(points)
    figure.add_scatter(
        x=[points[place][0] for place in front],
        y=[scores[place].y for place in front],
        mode="lines",
        line={"shape": "hv", "color": "#999999", "width": 1.5},
        name="Pareto front of the cells",
        hoverinfo="skip",
    )
    for name, size, score, symbol in _references(results, look, part):
        text = f"{name}<br>{shown(score).text}<br>{readable_bytes(size)}"
        figure.add_scatter(**_points(name, [(size, shown(score))], [text], symbol))
        sizes.append(size)
        scores.append(shown(score))
    axis = log_axis(sizes)
    figure.update_xaxes(
        axis, title="Packed model (bytes)", ticktext=[readable_bytes(tick) for tick in axis["tickvals"]]
    )
    figure.update_yaxes(accuracy_axis(part, scores))
    return finish(figure, "Accuracy by size", height=560)


def _points(name: str, marks: list[tuple[int, Shown]], texts: list[str], symbol: dict[str, object]) -> dict[str, Any]:
    return {
        "x": [size for size, _ in marks],
        "y": [one.y for _, one in marks],
        "error_y": error_bars([one for _, one in marks], width=0),
        "mode": "markers",
        "name": name,
        "marker": symbol,
        "hovertext": texts,
        "hoverinfo": "text",
    }


def _references(
    results: Sequence[CombinationResult], look: Look, part: str
) -> list[tuple[str, int, Score, dict[str, object]]]:
    """Name, bytes, score and mark of the original model, and of each that is only compressed."""
    found: list[tuple[str, int, Score, dict[str, object]]] = [
        (
            "original",
            result.facts["dense_bytes"],
            result.baseline[part],
            {"symbol": "star", "color": "#000000", "size": 13},
        )
        for result in results
        if part in result.baseline
    ][:1]
    for result in results:
        if part in result.compressed:
            symbol = {"symbol": f"{look.symbol(result.name)}-open", "color": "#666666", "size": 11}
            name = look.compressed_name(result.name)
            found.append((name, result.facts["compressed_bytes"], result.compressed[part], symbol))
    return found
