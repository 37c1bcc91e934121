"""The accuracy of each rank, and of each size."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from plotly.subplots import make_subplots

from pipeline.cell import UNRANKED
from pipeline.numbers import pareto_front
from pipeline.report.figures.axes import error, log_axis, rank_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import hover, rank_tick, short, words
from pipeline.report.figures.shown_scores import (
    UNTESTED,
    accuracy_axis,
    add_winners,
    score_text,
    shown_error,
    winners_by_init,
)
from pipeline.report.figures.style import DASHES, ORIGINALS, Look, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult, Score
from pipeline.results.comparison import Scores, compared_part, winner_bytes
from pipeline.wording import readable_bytes

Style = dict[str, Any]


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
            trace = {"mode": "lines+markers", "offsetgroup": f"{result.label} {init}", **look.trace(result.label, init)}
            texts = [hover(result, cell, score_text(one)) for cell, one in winners]
            add_winners(figure, ranks, [one for _, one in winners], texts, **trace)
            shown += [one for _, one in winners]
        if not shown:
            raise NothingToDraw("no trial has completed yet")
        look.legend(figure)
        for name, score, _, line, _ in _references(results, look, part):
            label, y = f"{name}: {score.accuracy:.2%}", error(score.accuracy, score.images)
            figure.add_hline(y=y, line={"color": NEUTRAL, **line}, name=label, showlegend=True)
            shown.append(Scores((score,)))
        figure.update_xaxes(rank_axis(results))
        figure.update_yaxes(accuracy_axis(results, part, shown))
        # The cells of a rank are side by side, so that their intervals do not overlap.
        figure.update_layout(scattermode="group", scattergap=0.7)
        return finish(figure, self.title.format(**words(results)), subtitle=UNTESTED[part])


@PICTURES.register("accuracy_by_size")
class AccuracyBySize(Picture):
    """Accuracy against bytes of the packed model, with the Pareto front of all cells."""

    order = 20
    title = "{Accuracy} by size"
    reading = (
        "The best trial of each cell against the bytes of the whole packed model; marks, bars and whiskers as above. "
        "A line joins the cells of a combination and init, from {rank} to {rank}. Combinations without ranks, such as "
        "those of trained codes, have one cell each; a line joins those of the same adapter, from size to size. The "
        "grey steps join the cells that no other cell beats in both size and {accuracy} (the Pareto front)."
    )
    main = True
    on_dashboard = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part, look, figure = compared_part(results), look_of(results), make_subplots()
        points: list[tuple[int, Scores]] = []
        unranked = defaultdict[str, list[tuple[int, Scores]]](list)
        for result, init, winners in winners_by_init(results, look, part):
            shown = sorted(winners, key=lambda winner: winner_bytes(winner[0]))
            sizes, scores = [winner_bytes(cell) for cell, _ in shown], [one for _, one in shown]
            texts = [hover(result, cell, score_text(one)) for cell, one in shown]
            add_winners(figure, sizes, scores, texts, mode="lines+markers", **look.trace(result.label, init, 10))
            points += zip(sizes, scores, strict=True)
            if init == UNRANKED:
                adapter = result.facts["pinned"]["combination"]["adapter"]
                unranked[json.dumps(adapter)] += zip(sizes, scores, strict=True)
        if not points:
            raise NothingToDraw("no trial has completed yet")
        for adapter, of_adapter in unranked.items():
            if len(of_adapter) > 1:
                name = f"{json.loads(adapter)['method']}, from size to size"
                line = {"color": look.ink(UNRANKED), "width": 1.5}
                _add_line(figure, of_adapter, name, line=line, legendgroup=UNRANKED)
        front = [points[index] for index in pareto_front([(size, one.mean) for size, one in points])]
        steps = {"shape": "hv", "color": NEUTRAL, "width": 1.5}
        _add_line(figure, front, "Pareto front of the cells", line=steps)
        look.legend(figure)
        for name, score, size, _, marker in _references(results, look, part):
            one = Scores((score,))
            text = f"{name}<br>{score_text(one)}<br>{readable_bytes(size)}"
            add_winners(figure, [size], [one], [text], mode="markers", name=name, marker={**marker, "color": NEUTRAL})
            points.append((size, one))
        axis = log_axis(size for size, _ in points)
        ticks = [readable_bytes(tick) for tick in axis["tickvals"]]
        figure.update_xaxes(axis, title="Packed model (bytes)", ticktext=ticks)
        figure.update_yaxes(accuracy_axis(results, part, [one for _, one in points]))
        return finish(figure, self.title.format(**words(results)), subtitle=UNTESTED[part])


def _add_line(figure: Figure, points: Iterable[tuple[int, Scores]], name: str, **style: Any) -> None:
    """A line through scores at sizes in bytes, from the smallest to the largest."""
    ordered = sorted(points, key=lambda point: point[0])
    x, y = [size for size, _ in ordered], [shown_error(one) for _, one in ordered]
    figure.add_scatter(x=x, y=y, mode="lines", name=short(name), hoverinfo="skip", **style)


def _references(
    results: Sequence[CombinationResult], look: Look, part: str
) -> Iterator[tuple[str, Score, int, Style, Style]]:
    """The original models without repetitions, then the compressed-only models: name, score, bytes, line, marker."""
    originals = dict[tuple[object, ...], CombinationResult]()
    for result in results:
        if part in result.baseline:
            hashes = result.facts.get("hashes", {})
            key = (*(hashes.get(name) for name in ("weights", "data", "split")), result.baseline[part])
            originals.setdefault(key, result)
    for index, result in enumerate(originals.values()):
        name = f"original, {short(result.of)}" if len(originals) > 1 else "original"
        line = {"width": 3, "dash": DASHES[index % len(DASHES)]}
        marker = {"symbol": ORIGINALS[index % len(ORIGINALS)], "size": 14}
        yield name, result.baseline[part], result.facts["dense_bytes"], line, marker
    for result in results:
        if part in result.compressed:
            name, line = look.compressed_name(result.label), {"width": 1.5, "dash": look.dash(result.label)}
            marker = {"symbol": look.mark(result.label), "size": 10, "line": {"width": 2}}
            yield name, result.compressed[part], result.facts["compressed_bytes"], line, marker
