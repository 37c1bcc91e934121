"""Where the bytes are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly.subplots import make_subplots

from pipeline.report.figures.contract import Figure, NothingToDraw, picture
from pipeline.report.figures.look import INKS, finish
from pipeline.report.figures.words import cell_name, readable_bytes, short
from pipeline.search.pieces import joined
from pipeline.search.results import CellResult, CombinationResult

PARTS = {"payload": "", "index": "/", "scale": "x", "bias": ".", "adapter": "-"}
"""What a compressed layer consists of, each with the pattern of its bars."""
BAR = 20
"""Pixels of a layer."""
Layer = Mapping[str, Any]


@picture(
    place=70,
    title="Sizes by layer",
    says="The bytes of each compressed layer, in the model's order: its payload (signs, codes or the weights that are "
    "kept), indices, scales, bias, and the adapter of the combination's best trial. At the end of each bar stands what "
    "the layer took before, and how many times smaller it is now. Layers that were left as they are are not shown.",
)
def layer_sizes(results: Sequence[CombinationResult]) -> Figure:
    """Stacked bars, a row for each layer, a column for each combination, with the dense sizes in words."""
    known = [(result, json.loads(text)) for result in results if (text := joined(result.facts, "layers"))]
    names = list(dict.fromkeys(layer["name"] for _, layers in known for layer in layers))
    if not names:
        raise NothingToDraw("no sizes of layers are stored; an older version began the study")
    figure = make_subplots(
        cols=len(known),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        column_titles=[_head(result) for result, _ in known],
    )
    for column, (result, layers) in enumerate(known, start=1):
        _draw(figure, result, layers, [names.index(layer["name"]) for layer in layers], column)
    named = set[str]()
    for trace in figure.data:
        trace.showlegend = trace.name is not None and trace.name not in named
        named.add(trace.name)
    figure.update_xaxes(title="Packed layer (bytes)", rangemode="tozero", tickformat="~s", nticks=5)
    figure.update_yaxes(range=[len(names) - 0.4, -0.6], tickfont={"size": 11}, showgrid=False)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=[short(name) for name in names], col=1)
    figure.update_layout(barmode="stack", bargap=0.25, hovermode="y")
    width = 150 + 240 * len(known)
    return finish(
        figure, "Bytes of the compressed layers", height=170 + BAR * max(4, len(names)), min_width=width, top=100
    )


def _best(result: CombinationResult) -> CellResult | None:
    checkpoints = result.best_of_ranks().values()
    return max(checkpoints, key=lambda cell: cell.best.value or 0.0 if cell.best else 0.0, default=None)


def _head(result: CombinationResult) -> str:
    best = _best(result)
    adapter = f"with {cell_name(result, best.cell.rank, best.cell.init)}" if best else "no adapter yet"
    return f"{short(result.label)}<br>{short(adapter)}"


def _draw(figure: Figure, result: CombinationResult, layers: Sequence[Layer], rows: Sequence[int], column: int) -> None:
    best = _best(result)
    sizes = [{**layer, "adapter": layer["adapter"].get(str(best.cell.rank), 0) if best else 0} for layer in layers]
    for part, ink in zip(PARTS, INKS, strict=False):
        if any(layer[part] for layer in sizes):
            figure.add_bar(
                x=np.array([layer[part] for layer in sizes], dtype=np.float64),
                y=np.array(rows, dtype=np.int16),
                orientation="h",
                name=part,
                legendgroup=part,
                marker={
                    "color": ink,
                    "line": {"width": 0},
                    "pattern": {"shape": PARTS[part], "fgcolor": "#FFFFFF", "fillmode": "overlay"},
                },
                hoverinfo="skip",
                row=1,
                col=column,
            )
    totals = [sum(layer[part] for part in PARTS) for layer in sizes]
    figure.add_scatter(
        x=totals,
        y=rows,
        mode="text",
        text=[
            f" {readable_bytes(layer['dense'])} ÷ {layer['dense'] / total:.1f}"
            for layer, total in zip(sizes, totals, strict=True)
        ],
        textposition="middle right",
        textfont={"size": 11},
        hovertext=[_said(layer, total) for layer, total in zip(sizes, totals, strict=True)],
        hoverinfo="text",
        row=1,
        col=column,
    )
    figure.update_xaxes(range=[0, 1.7 * max(totals)], row=1, col=column)


def _said(layer: Layer, total: int) -> str:
    parts = [f"{part}: {layer[part]:,} bytes" for part in PARTS if layer[part]]
    return "<br>".join([short(layer["name"], 200), f"{total:,} of {layer['dense']:,} bytes", *parts])
