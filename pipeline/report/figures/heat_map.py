"""Every cell at a glance."""

import math
from collections.abc import Mapping, Sequence

from plotly.subplots import make_subplots

from pipeline.cell import Cell
from pipeline.report.figures.axes import accuracy_text, log_ticks, part_name, rank_axis
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import cell_label, hover, rank_tick, short
from pipeline.report.figures.shown_scores import UNTESTED, Winner, score_text, shown_error
from pipeline.report.figures.style import finish
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.comparison import compared_part, winner_scores
from pipeline.wording import init_name

SCALE, MIDDLE = "Cividis", 0.467
"""The colour scale, and the share of it at which black and white text are equally legible."""
CELL = (60, 30)
"""The smallest width and the height of a cell in pixels."""
TICKS = 6
"""The most ticks of the colour bar."""
HEAD = 64
"""Pixels between two panels, for the ticks of one and the title of the other."""


@PICTURES.register("heat_map")
class HeatMap(Picture):
    """Init by rank, a panel for each combination, with the accuracy in each cell."""

    order = 25
    title = "{Accuracy} of every cell"
    reading = (
        "The {accuracy} of each cell's best trial in percent. Brighter is better, on the same logarithmic scale as "
        "above. The checkpoint of each {rank} is bold, and the best of each combination has a star; both are chosen "
        "on the validation part. A cell with a cross has no complete trial yet: point at it to see how far it is."
    )
    main = True

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        part = compared_part(results)
        measured = [(result, _winners(result, part)) for result in results]
        shown = [(result, winners) for result, winners in measured if winners]
        if not shown:
            raise NothingToDraw("no trial has completed yet")
        several = len(shown) > 1
        heights = [CELL[1] * len({cell.cell.init for cell in result.cells}) for result, _ in shown]
        inner = sum(heights) + HEAD * (len(shown) - 1)
        figure = make_subplots(
            rows=len(shown),
            row_heights=heights,
            vertical_spacing=HEAD / inner if several else 0,
            subplot_titles=[short(result.label, 48) for result, _ in shown] if several else (),
        )
        errors = [shown_error(scores) for _, winners in shown for _, scores in winners.values()]
        low, high = min(errors), max(errors)
        for row, (result, winners) in enumerate(shown, start=1):
            _draw(figure, result, winners, (low, high), row)
        ticks = log_ticks(low / 1.01, high * 1.01)
        ticks = ticks[:: -(-len(ticks) // TICKS)]
        bar = {
            "orientation": "h",
            "y": -60 / inner,
            "yanchor": "top",
            "thickness": 12,
            "tickangle": 0,
            "tickvals": [_brightness(tick) for tick in ticks],
            "ticktext": [accuracy_text(tick) for tick in ticks],
        }
        scale = {"colorscale": SCALE, "cmin": _brightness(high), "cmax": _brightness(low)}
        figure.update_layout(coloraxis={**scale, "colorbar": bar, "showscale": low < high})
        figure.update_xaxes(type="category", showgrid=False)
        figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
        figure.update_xaxes(title=rank_axis(results)["title"], row=len(shown))
        widest = max(len({cell.cell.rank for cell in result.cells}) for result, _ in shown)
        top = 88 if several else 72
        return finish(
            figure,
            f"{part_name(results, part)} of every cell",
            height=inner + top + 124,
            min_width=110 + CELL[0] * widest,
            margins=(top, 120),
            subtitle=UNTESTED[part],
        )


def _brightness(error: float) -> float:
    return round(-math.log10(error), 6)


def _winners(result: CombinationResult, part: str) -> dict[Cell, Winner]:
    scores = {cell.cell: (cell, winner_scores(result, cell, part)) for cell in result.cells}
    return {key: (cell, found) for key, (cell, found) in scores.items() if found}


def _draw(
    figure: Figure, result: CombinationResult, winners: Mapping[Cell, Winner], ends: tuple[float, float], row: int
) -> None:
    """The panel of one combination; ``ends`` are the smallest and the largest error of all panels."""
    columns = {rank: rank_tick(result, rank) for rank in sorted({cell.cell.rank for cell in result.cells})}
    rows = {cell.cell.init: short(init_name(cell.cell.init), 20) for cell in result.cells}
    bright = {key: _brightness(shown_error(scores)) for key, (_, scores) in winners.items()}
    texts = {key: hover(result, cell, score_text(scores)) for key, (cell, scores) in winners.items()}
    panel = {"row": row, "col": 1}
    figure.add_heatmap(
        x=list(columns.values()),
        y=list(rows.values()),
        z=[[bright.get(Cell(rank, init)) for rank in columns] for init in rows],
        hovertext=[[texts.get(Cell(rank, init), "") for rank in columns] for init in rows],
        hoverinfo="text",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        **panel,
    )
    # The text is a separate trace: plotly's own colour for it is hard to read on cells of a medium grey.
    checkpoints, best = list(result.best_of_ranks().values()), result.best_cell()
    low, high = (_brightness(end) for end in reversed(ends))
    figure.add_scatter(
        x=[columns[key.rank] for key in winners],
        y=[rows[key.init] for key in winners],
        mode="text",
        text=[_text(scores.mean, cell in checkpoints, cell is best) for cell, scores in winners.values()],
        textfont={"size": 12, "color": [legible_ink((value - low) / (high - low or 1)) for value in bright.values()]},
        hoverinfo="skip",
        showlegend=False,
        **panel,
    )
    if empty := [cell for cell in result.cells if cell.cell not in winners]:
        figure.add_scatter(
            x=[columns[cell.cell.rank] for cell in empty],
            y=[rows[cell.cell.init] for cell in empty],
            mode="markers",
            marker={"symbol": "x-thin-open", "size": 9, "color": NEUTRAL},
            hovertext=[_missing(result, cell) for cell in empty],
            hoverinfo="text",
            showlegend=False,
            **panel,
        )


def _text(accuracy: float, checkpoint: bool, best: bool) -> str:
    number = f"{100 * accuracy:.2f}"
    return f"{'★ ' if best else ''}{f'<b>{number}</b>' if checkpoint else number}"


def legible_ink(share: float) -> str:
    """Black or white, whichever is more legible on that share of the colour scale."""
    return "#000000" if share > MIDDLE else "#FFFFFF"


def _missing(result: CombinationResult, cell: CellResult) -> str:
    states = ", ".join(f"{count} {state}" for state, count in cell.tally.states.items() if count)
    name = short(f"{result.label}, {cell_label(result, cell.cell)}", 200)
    return f"{name}<br>no complete trial yet; budget {cell.budget}: {states or 'no trial has begun'}"
