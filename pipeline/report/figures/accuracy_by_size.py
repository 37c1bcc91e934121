"""The accuracy of each size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from plotly.subplots import make_subplots

from pipeline.numbers import pareto_front
from pipeline.report.figures.axes import log_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import hover, words
from pipeline.report.figures.shown_scores import (
    UNTESTED,
    Shown,
    accuracy_axis,
    cell_score,
    originals,
    seed_bars,
    whiskers,
)
from pipeline.report.figures.style import ORIGINALS, Look, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult
from pipeline.results.comparison import compared_part
from pipeline.wording import readable_bytes

Mark = tuple[int, Shown, str]
"""Bytes, scores, and the text at the pointer."""


@PICTURES.register("accuracy_by_size")
class AccuracyBySize(Picture):
    """Accuracy against bytes of the packed model, with the Pareto front of all cells."""

    order: ClassVar = 20
    title: ClassVar = "{Accuracy} by size"
    reading: ClassVar = (
        "The best trial of each cell against the bytes of the whole packed model; marks, bars and whiskers as above. "
        "The grey steps join the cells that no other cell beats in both size and {accuracy} (the Pareto front)."
    )
    main: ClassVar = True
    on_dashboard: ClassVar = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part, look, figure, marks = compared_part(results), look_of(results), make_subplots(), list[Mark]()
        for result in results:
            for init in look.inits:
                found = [
                    (cell.best.user_attrs["bytes"], score, hover(result, cell, score.text))
                    for cell in result.cells
                    if cell.cell.init == init and cell.best and (score := cell_score(result, cell, part))
                ]
                if found:
                    symbol = {"symbol": look.symbol(result.label, init), "color": look.ink(init), "size": 10}
                    _draw(figure, found, {"legendgroup": init, "showlegend": False, "marker": symbol})
                    marks += found
        if not marks:
            raise NothingToDraw("no trial has completed yet")
        front = pareto_front([(size, one.mean) for size, one, _ in marks])
        figure.add_scatter(
            x=[marks[index][0] for index in front],
            y=[marks[index][1].y for index in front],
            mode="lines",
            line={"shape": "hv", "color": NEUTRAL, "width": 1.5},
            name="Pareto front of the cells",
            hoverinfo="skip",
        )
        look.legend(figure)
        for name, mark, symbol in _references(results, look, part):
            _draw(figure, [mark], {"name": name, "marker": {**symbol, "color": NEUTRAL}})
            marks.append(mark)
        axis = log_axis(size for size, *_ in marks)
        ticks = [readable_bytes(tick) for tick in axis["tickvals"]]
        figure.update_xaxes(axis, title="Packed model (bytes)", ticktext=ticks)
        figure.update_yaxes(accuracy_axis(results, part, [one for _, one, _ in marks]))
        return finish(figure, "{Accuracy} by size".format(**words(results)), subtitle=UNTESTED[part])


def _draw(figure: Figure, marks: Sequence[Mark], common: Mapping[str, Any]) -> None:
    sizes, shown, texts = zip(*marks, strict=True)
    points = {"x": sizes, "y": [one.y for one in shown], "mode": "markers"}
    figure.add_scatter(**points, error_y=whiskers(shown), hovertext=texts, hoverinfo="text", **common)
    if any(len(one.scores) > 1 for one in shown):
        figure.add_scatter(**points, error_y=seed_bars(shown), hoverinfo="skip", **common)


def _references(
    results: Sequence[CombinationResult], look: Look, part: str
) -> Iterator[tuple[str, Mark, dict[str, Any]]]:
    """Names, marks and symbols of the original and the compressed-only models."""
    for index, (name, result) in enumerate(originals(results, part)):
        symbol = {"symbol": ORIGINALS[index % len(ORIGINALS)], "size": 14}
        yield name, _mark(name, result, result.baseline, "dense_bytes", part), symbol
    for result in results:
        if part in result.compressed:
            name, line = look.compressed_name(result.label), {"width": 2}
            mark = _mark(name, result, result.compressed, "compressed_bytes", part)
            yield name, mark, {"symbol": look.mark(result.label), "size": 10, "line": line}


def _mark(name: str, result: CombinationResult, scores: Mapping[str, Any], size: str, part: str) -> Mark:
    one, count = Shown((scores[part],)), result.facts[size]
    return count, one, f"{name}<br>{one.text}<br>{readable_bytes(count)}"
