"""The size of each layer."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.report.blocks import Block, Column, Folded, Table, table
from pipeline.report.figures.axes import layer_panels
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import cell_label, short
from pipeline.report.figures.style import INKS, OVER, finish
from pipeline.results.combination_result import CombinationResult, LayerBytes, bytes_with_adapter
from pipeline.wording import rank_value, readable_bytes, size

PARTS = {"payload": "", "index": "/", "scale": "x", "bias": ".", "adapter": "-"}
"""The parts of a compressed layer with the patterns of their bars."""
BAR = 20
"""The height of a layer in pixels."""


@PICTURES.register("layer_sizes")
class LayerSizes(Picture):
    """Stacked bars, one row per layer and one column per combination, with the original sizes as text."""

    order = 70
    title = "Sizes by layer"
    reading = (
        "The bytes of each compressed layer in the model's order: payload (signs, codes or kept weights), indices, "
        "scales, bias, and the adapter of the combination's best trial. The text after each bar is the layer's "
        "original size and how many times smaller it is now. Layers that are not compressed are left out. Where files "
        "are entropy-coded, these are the sizes before that; the file is smaller."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        known = [(result, layers) for result in results if (layers := result.layer_sizes())]
        names = list(dict.fromkeys(layer["name"] for _, layers in known for layer in layers))
        if not names:
            raise NothingToDraw("no sizes of layers are stored; an older version ran the study")
        figure = layer_panels(names, [_head(result) for result, _ in known])
        for column, (result, layers) in enumerate(known, start=1):
            _draw(figure, result, layers, [names.index(layer["name"]) for layer in layers], column)
        named = set[str]()
        for trace in figure.data:
            trace.showlegend = trace.name is not None and trace.name not in named
            named.add(trace.name)
        figure.update_xaxes(title="Packed layer (bytes)", rangemode="tozero", tickformat="~s", nticks=5)
        figure.update_layout(barmode="stack", bargap=0.25, hovermode="y")
        height, width = 170 + BAR * max(4, len(names)), 150 + 240 * len(known)
        return finish(figure, "Sizes by layer", height=height, min_width=width, margins=(100, 56))

    def below(self, results: Sequence[CombinationResult]) -> list[Block]:
        """The same sizes as tables, one per combination."""
        return [
            Folded(f"Layers of {result.label}, in numbers", [_table(result, layers)])
            for result in results
            if (layers := result.layer_sizes())
        ]


def _head(result: CombinationResult) -> str:
    best = result.best_cell()
    adapter = f"with {cell_label(result, best.cell)}" if best else "no adapter yet"
    return f"{short(result.label, 24)}<br>{short(adapter, 24)}"


def _draw(
    figure: Figure, result: CombinationResult, layers: Sequence[LayerBytes], rows: Sequence[int], column: int
) -> None:
    best, panel = result.best_cell(), {"row": 1, "col": column}
    parts = [bytes_with_adapter(layer, best.cell if best else None) for layer in layers]
    for (part, pattern), ink in zip(PARTS.items(), INKS, strict=False):
        if any(sizes := [layer[part] for layer in parts]):
            figure.add_bar(
                x=np.array(sizes, dtype=np.float64),
                y=np.array(rows, dtype=np.int16),
                orientation="h",
                name=part,
                legendgroup=part,
                marker={"color": ink, "line": {"width": 0}, "pattern": {**OVER, "shape": pattern}},
                hoverinfo="skip",
                **panel,
            )
    totals = [sum(layer.values()) for layer in parts]
    figure.add_scatter(
        x=totals,
        y=rows,
        mode="text",
        text=[
            f" {readable_bytes(layer['dense'])}" + (f" ÷ {layer['dense'] / total:.1f}" if total else "")
            for layer, total in zip(layers, totals, strict=True)
        ],
        textposition="middle right",
        textfont={"size": 11},
        hovertext=[_said(layer, sizes) for layer, sizes in zip(layers, parts, strict=True)],
        hoverinfo="text",
        **panel,
    )
    figure.update_xaxes(range=[0, 1.7 * max(totals)], **panel)


def _said(layer: LayerBytes, parts: Mapping[str, int]) -> str:
    lines = [f"{part}: {taken:,} bytes" for part, taken in parts.items() if taken]
    return "<br>".join([short(layer["name"], 200), f"{sum(parts.values()):,} of {layer['dense']:,} bytes", *lines])


def _table(result: CombinationResult, sizes: Sequence[LayerBytes]) -> Table:
    ranks = sorted({int(rank) for layer in sizes for rank in layer["adapter"]})
    kind = "budget" if result.budget_unit else "rank"
    adapters = {
        "adapter" if rank == 0 else f"adapter, {kind} {rank_value(rank, result.budget_unit)}": Column[LayerBytes](
            lambda layer, rank=rank: size(layer["adapter"].get(str(rank))),  # type: ignore[misc]
        )
        for rank in ranks
    }
    moved = {
        f"all of it, {name}": Column[LayerBytes](
            lambda layer, name=name: size(sum(layer["cells"][name].values())),  # type: ignore[misc]
        )
        for name in sizes[0].get("cells", {})
    }
    return table(
        "Bytes of each compressed layer"
        + (", before entropy coding" if result.is_coded else "")
        + "; the adapter comes on top of the compressed size"
        + (", and cells whose init moves the base have sizes of their own" if moved else ""),
        {
            "layer": Column(lambda layer: layer["name"], "text"),
            "original": Column(lambda layer: size(layer["dense"])),
            "compressed": Column(lambda layer: size(sum(bytes_with_adapter(layer, None).values()))),
            "of it weights": Column(lambda layer: size(layer["payload"])),
            "indices": Column(lambda layer: size(layer["index"] or None)),
            "scales": Column(lambda layer: size(layer["scale"] or None)),
            "bias": Column(lambda layer: size(layer["bias"] or None)),
            **adapters,
            **moved,
        },
        [*sizes, _total(sizes)],
        best=lambda layer: layer["name"] == "all of them",
    )


def _total(sizes: Sequence[LayerBytes]) -> LayerBytes:
    ranks = dict.fromkeys(rank for layer in sizes for rank in layer["adapter"])
    total = LayerBytes(
        name="all of them",
        dense=sum(layer["dense"] for layer in sizes),
        payload=sum(layer["payload"] for layer in sizes),
        index=sum(layer["index"] for layer in sizes),
        scale=sum(layer["scale"] for layer in sizes),
        bias=sum(layer["bias"] for layer in sizes),
        adapter={rank: sum(layer["adapter"].get(rank, 0) for layer in sizes) for rank in ranks},
    )
    if cells := sizes[0].get("cells"):
        total["cells"] = {
            cell: {part: sum(layer["cells"][cell][part] for layer in sizes) for part in parts}
            for cell, parts in cells.items()
        }
    return total
