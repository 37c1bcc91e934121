"""The accuracy of each size."""

from collections.abc import Iterator, Sequence
from typing import Any

from plotly.subplots import make_subplots

from pipeline.numbers import pareto_front
from pipeline.report.figures.axes import log_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import hover, words
from pipeline.report.figures.shown_scores import (
    UNTESTED,
    accuracy_axis,
    add_winners,
    originals,
    score_text,
    shown_error,
    winners_by_init,
)
from pipeline.report.figures.style import ORIGINALS, Look, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult
from pipeline.results.comparison import Scores, compared_part, winner_bytes
from pipeline.wording import readable_bytes

Point = tuple[int, Scores]
"""Bytes of a packed model, and its scores."""


@PICTURES.register("accuracy_by_size")
class AccuracyBySize(Picture):
    """Accuracy against bytes of the packed model, with the Pareto front of all cells."""

    order = 20
    title = "{Accuracy} by size"
    reading = (
        "The best trial of each cell against the bytes of the whole packed model; marks, bars and whiskers as above. "
        "The grey steps join the cells that no other cell beats in both size and {accuracy} (the Pareto front)."
    )
    main = True
    on_dashboard = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part, look, figure, points = compared_part(results), look_of(results), make_subplots(), list[Point]()
        for result, init, winners in winners_by_init(results, look, part):
            sizes, scores = [winner_bytes(cell) for cell, _ in winners], [one for _, one in winners]
            texts = [hover(result, cell, score_text(one)) for cell, one in winners]
            add_winners(figure, sizes, scores, texts, mode="markers", **look.trace(result.label, init, 10))
            points += zip(sizes, scores, strict=True)
        if not points:
            raise NothingToDraw("no trial has completed yet")
        front = [points[index] for index in pareto_front([(size, one.mean) for size, one in points])]
        figure.add_scatter(
            x=[size for size, _ in front],
            y=[shown_error(one) for _, one in front],
            mode="lines",
            line={"shape": "hv", "color": NEUTRAL, "width": 1.5},
            name="Pareto front of the cells",
            hoverinfo="skip",
        )
        look.legend(figure)
        for name, one, size, symbol in _references(results, look, part):
            text = f"{name}<br>{score_text(one)}<br>{readable_bytes(size)}"
            add_winners(figure, [size], [one], [text], mode="markers", name=name, marker={**symbol, "color": NEUTRAL})
            points.append((size, one))
        axis = log_axis(size for size, _ in points)
        ticks = [readable_bytes(tick) for tick in axis["tickvals"]]
        figure.update_xaxes(axis, title="Packed model (bytes)", ticktext=ticks)
        figure.update_yaxes(accuracy_axis(results, part, [one for _, one in points]))
        return finish(figure, "{Accuracy} by size".format(**words(results)), subtitle=UNTESTED[part])


def _references(
    results: Sequence[CombinationResult], look: Look, part: str
) -> Iterator[tuple[str, Scores, int, dict[str, Any]]]:
    """Names, scores, bytes and markers of the original and the compressed-only models."""
    for index, (name, result) in enumerate(originals(results, part)):
        symbol = {"symbol": ORIGINALS[index % len(ORIGINALS)], "size": 14}
        yield name, Scores((result.baseline[part],)), result.facts["dense_bytes"], symbol
    for result in results:
        if part in result.compressed:
            symbol = {"symbol": look.mark(result.label), "size": 10, "line": {"width": 2}}
            name = look.compressed_name(result.label)
            yield name, Scores((result.compressed[part],)), result.facts["compressed_bytes"], symbol
