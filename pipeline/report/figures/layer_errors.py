"""The error of each layer before and after training, its bits a weight, and the share of its codes that moved."""

from collections.abc import Sequence

from pipeline.report.blocks import Block, Column, Folded, Table, table
from pipeline.report.figures.axes import layer_panels
from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import cell_label, short
from pipeline.report.figures.style import INKS, finish
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult
from pipeline.results.trained_layers import TrainedLayer, trained_layers
from pipeline.wording import formatted, percent

ROW = 24
"""The height of a layer in pixels."""
MARKS = {"compressed only": ("circle-open", NEUTRAL), "trained": ("circle", INKS[0])}


@PICTURES.register("layer_errors")
class LayerErrors(Picture):
    """The relative error of each layer's weight, compressed and trained, one column per combination."""

    order = 75
    title = "Errors by layer"
    reading = (
        "How far the weight of each compressed layer is from the uncompressed one, in the best trial of each "
        "combination: the sum of squared differences as a share of the sum of squared weights. The open mark is the "
        "compressed-only model, the filled one the weight that the trained layer computes with. The text is the bits "
        "a weight, with those of the adapter, and the share of codes that training changed. Training serves the "
        "model's answers and not its weights: an error may grow while {accuracy} rises."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        known = [(result, layers) for result in results if (layers := _layers(result))]
        names = list(dict.fromkeys(layer.name for _, layers in known for layer in layers))
        errors = [e for _, layers in known for layer in layers for e in (layer.before, layer.after) if e is not None]
        if not errors:
            raise NothingToDraw("no errors of layers are stored yet; a run stores them when it tests the winners")
        figure = layer_panels(names, [_head(result) for result, _ in known])
        for column, (_, layers) in enumerate(known, start=1):
            _draw(figure, layers, [names.index(layer.name) for layer in layers], column)
        figure.update_xaxes(title="Relative error (%)", range=[0, 190 * max(errors)], nticks=5)
        figure.update_layout(hovermode="closest")
        height, width = 170 + ROW * max(4, len(names)), 150 + 320 * len(known)
        return finish(figure, self.title, height=height, min_width=width, margins=(100, 56))

    def below(self, results: Sequence[CombinationResult]) -> list[Block]:
        """The same numbers as tables, one per combination."""
        return [
            Folded(f"Layers of {result.label} after training, in numbers", [_table(result, layers)])
            for result in results
            if (layers := _layers(result))
        ]


def _layers(result: CombinationResult) -> list[TrainedLayer]:
    return trained_layers(result, result.best_cell())


def _head(result: CombinationResult) -> str:
    best = result.best_cell()
    return f"{short(result.label, 28)}<br>{short(cell_label(result, best.cell), 28) if best else ''}"


def _draw(figure: Figure, layers: Sequence[TrainedLayer], rows: Sequence[int], column: int) -> None:
    panel = {"row": 1, "col": column}
    errors = {"compressed only": [layer.before for layer in layers], "trained": [layer.after for layer in layers]}
    joined = [(end, row) for *ends, row in zip(*errors.values(), rows, strict=True) for end in (*ends, None)]
    figure.add_scatter(
        x=[_in_percent(error) for error, _ in joined],
        y=[row for _, row in joined],
        mode="lines",
        line={"color": NEUTRAL, "width": 1.5},
        showlegend=False,
        hoverinfo="skip",
        **panel,
    )
    for name, shown in errors.items():
        symbol, colour = MARKS[name]
        figure.add_scatter(
            x=[_in_percent(error) for error in shown],
            y=rows,
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=column == 1,
            marker={"symbol": symbol, "color": colour, "size": 10, "line": {"color": colour, "width": 2}},
            hovertext=[_said(layer) for layer in layers],
            hoverinfo="text",
            **panel,
        )
    figure.add_scatter(
        x=[100 * max(layer.before or 0.0, layer.after or 0.0) for layer in layers],
        y=rows,
        mode="text",
        text=[f"   {_short_text(layer)}" for layer in layers],
        textposition="middle right",
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
        **panel,
    )


def _in_percent(error: float | None) -> float | None:
    return None if error is None else 100 * error


def _short_text(layer: TrainedLayer) -> str:
    moved = "" if layer.moved is None else f", {percent(layer.moved, 1)} % moved"
    return f"{layer.bits_a_weight + layer.adapter_bits_a_weight:.2f} bits{moved}"


def _said(layer: TrainedLayer) -> str:
    errors = {"compressed only": layer.before, "trained": layer.after}
    lines = [f"{name}: {percent(error)} % error" for name, error in errors.items() if error is not None]
    bits = {"weight": layer.bits_a_weight, "adapter": layer.adapter_bits_a_weight}
    lines += [f"{name}: {count:.3f} bits a weight" for name, count in bits.items() if count]
    moved = [] if layer.moved is None else [f"codes moved: {percent(layer.moved)} %"]
    return "<br>".join([short(layer.name, 200), *lines, *moved])


def _table(result: CombinationResult, layers: Sequence[TrainedLayer]) -> Table:
    best = result.best_cell()
    weights, bits = sum(layer.weights for layer in layers), sum(layer.bits for layer in layers)
    whole = TrainedLayer("all of them", weights, bits, sum(layer.adapter_bits for layer in layers), None, None, None)
    return table(
        f"The compressed layers of the best trial ({cell_label(result, best.cell) if best else ''}): bits a weight in "
        f"the file, relative error of the weight and codes that training changed in percent",
        {
            "layer": Column[TrainedLayer](lambda layer: layer.name, "text"),
            "weights": Column(lambda layer: f"{layer.weights:,}"),
            "bits a weight": Column(lambda layer: f"{layer.bits_a_weight:.3f}"),
            "adapter": Column(lambda layer: formatted(layer.adapter_bits_a_weight or None, ".3f")),
            "error before": Column(lambda layer: percent(layer.before)),
            "error after": Column(lambda layer: percent(layer.after)),
            "codes moved": Column(lambda layer: percent(layer.moved)),
        },
        [*layers, whole],
        best=lambda layer: layer is whole,
    )
