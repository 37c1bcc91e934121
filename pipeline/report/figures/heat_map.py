"""Every cell at a glance."""

import math
from collections.abc import Sequence

from plotly.subplots import make_subplots

from pipeline.report.figures.accuracy import accuracy_text, cell_score, error, part_name, shown_part
from pipeline.report.figures.axes import log_ticks
from pipeline.report.figures.contract import Figure, NothingToDraw, picture
from pipeline.report.figures.look import finish
from pipeline.report.figures.words import cell_name, hover, init_name, rank_name, short, words
from pipeline.report.theme import NEUTRAL
from pipeline.search.results import CellResult, CombinationResult

CELL = (54, 30)
"""Pixels of a cell: the least width, the height."""
HEAD = 64
"""Pixels between two panels: the ticks of one, the title of the other."""


@picture(
    place=25,
    title="{Accuracy} of every cell",
    says="The {accuracy} of each cell's best trial, in percent; brighter is better, spaced like the axes above. The "
    "checkpoint of each {rank} is bold, and the best of each combination has a star; both are chosen on the validation "
    "part. A cell with a cross has no complete trial yet: the pointer says how far it is.",
    main=True,
)
def heat_map(results: Sequence[CombinationResult]) -> Figure:
    """Init by rank, a panel for each combination, with the accuracy in each cell."""
    part = shown_part(results)
    shown = [result for result in results if any(cell_score(result, cell, part) for cell in result.cells)]
    if not shown:
        raise NothingToDraw("no trial has completed yet")
    heights = [CELL[1] * len({cell.cell.init for cell in result.cells}) for result in shown]
    inner = sum(heights) + HEAD * (len(shown) - 1)
    figure = make_subplots(
        rows=len(shown),
        row_heights=heights,
        vertical_spacing=HEAD / inner if len(shown) > 1 else 0,
        subplot_titles=[short(result.label, 48) for result in shown] if len(shown) > 1 else (),
    )
    errors = [own for row, result in enumerate(shown, start=1) for own in _draw(figure, result, part, row)]
    ticks = log_ticks(min(errors) / 1.01, max(errors) * 1.01)
    bar = {
        "title": {"text": part_name(results, part), "side": "top"},
        "orientation": "h",
        "yref": "container",
        "y": 0,
        "yanchor": "bottom",
        "len": 0.9,
        "thickness": 12,
        "tickvals": [-math.log10(tick) for tick in ticks],
        "ticktext": [accuracy_text(tick) for tick in ticks],
    }
    figure.update_layout(coloraxis={"colorscale": "Cividis", "colorbar": bar})
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    own = words(results)
    figure.update_xaxes(title=own["Rank"], row=len(shown))
    widest = max(len({cell.cell.rank for cell in result.cells}) for result in shown)
    finish(figure, f"{own['Accuracy']} by init and {own['rank']}", height=inner + 240, min_width=110 + CELL[0] * widest)
    return figure.update_layout(margin={"t": 90 if len(shown) > 1 else 60, "b": 150})


def _draw(figure: Figure, result: CombinationResult, part: str, row: int) -> list[float]:
    """The panel of one combination; returns the errors that its colours stand for."""
    ranks = sorted({cell.cell.rank for cell in result.cells})
    inits = list(dict.fromkeys(cell.cell.init for cell in result.cells))
    checkpoints = list(result.best_of_ranks().values())
    best = max(checkpoints, key=lambda cell: cell.best.value or 0.0 if cell.best else 0.0)
    grid = {(cell.cell.init, cell.cell.rank): cell for cell in result.cells}
    scores = {place: cell_score(result, cell, part) for place, cell in grid.items()}
    found = {place: score for place, score in scores.items() if score}
    errors = {place: error(score.mean, score.images) for place, score in found.items()}

    def text(place: tuple[str, int]) -> str:
        if place not in found:
            return ""
        said = f"{100 * found[place].mean:.2f}"
        bold = f"<b>{said}</b>" if any(grid[place] is cell for cell in checkpoints) else said
        return f"★ {bold}" if grid[place] is best else bold

    def pointed(place: tuple[str, int]) -> str:
        return hover(result, grid[place], found[place].text) if place in found else ""

    places = [[(init, rank) for rank in ranks] for init in inits]
    figure.add_heatmap(
        x=[rank_name(result, rank) for rank in ranks],
        y=[short(init_name(init), 20) for init in inits],
        z=[[-math.log10(errors[place]) if place in errors else None for place in line] for line in places],
        text=[[text(place) for place in line] for line in places],
        texttemplate="%{text}",
        hovertext=[[pointed(place) for place in line] for line in places],
        hoverinfo="text",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        row=row,
        col=1,
    )
    empty = [cell for place, cell in grid.items() if place not in found]
    if empty:
        figure.add_scatter(
            x=[rank_name(result, cell.cell.rank) for cell in empty],
            y=[short(init_name(cell.cell.init), 20) for cell in empty],
            mode="markers",
            marker={"symbol": "x-thin-open", "size": 9, "color": NEUTRAL},
            showlegend=False,
            hovertext=[_missing(result, cell) for cell in empty],
            hoverinfo="text",
            row=row,
            col=1,
        )
    return list(errors.values())


def _missing(result: CombinationResult, cell: CellResult) -> str:
    states = ", ".join(f"{count} {state}" for state, count in cell.states.items() if count) or "none has begun"
    name = short(f"{result.label}, {cell_name(result, cell.cell.rank, cell.cell.init)}", 200)
    return f"{name}<br>no complete trial yet; of {cell.budget}: {states}"
