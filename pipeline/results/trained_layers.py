"""What training made of each compressed layer of a winner, as the stored study keeps it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from pipeline.cell import Cell
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.store.stored_study import joined


class TrainedLayer(NamedTuple):
    """One compressed layer of a winner. ``W`` is its uncompressed weight, and errors are relative: 0 is no error."""

    name: str
    weights: int
    """The number of weights in ``W``."""
    bits: int
    """Bits of the packed weight in the file, coded if the file is."""
    adapter_bits: int
    """Bits of what the adapter adds to it."""
    before: float | None
    """``||W - Q||^2 / ||W||^2`` of the compressed-only model; None if layers have fewer channels than before."""
    after: float | None
    """The same of the weight that the trained layer computes with; None also if the adapter has no such weight."""
    moved: float | None
    """The share of the codes that training changed; None if none are trained."""

    @property
    def bits_a_weight(self) -> float:
        """Bits of the packed weight per weight of ``W``."""
        return self.bits / self.weights

    @property
    def adapter_bits_a_weight(self) -> float:
        """Bits of the adapter per weight of ``W``."""
        return self.adapter_bits / self.weights


class LayerRow(TypedDict):
    """One compressed layer of a cell's winner."""

    study: str
    combination: str
    rank: int
    init: str
    trial: int
    layer: str
    weights: int
    """The number of its weights before compression."""
    bits_a_weight: float
    """Bits of the packed weight in the file per weight."""
    adapter_bits_a_weight: float
    """Bits that the adapter adds per weight."""
    error_before: float | None
    """``||W - Q||^2 / ||W||^2`` of the compressed-only model."""
    error_after: float | None
    """The same of the trained layer."""
    codes_moved: float | None
    """The share of the codes that training changed."""


def as_text(trial: int, layers: Sequence[TrainedLayer]) -> str:
    """The layers of a winner as the stored study keeps them, in chunks under ``Cell.layers_key``."""
    return json.dumps({"trial": trial, "layers": layers})


def stored_layers(facts: Mapping[str, Any], cell: Cell, trial: int) -> list[TrainedLayer] | None:
    """The layers of a cell's winner, by the attributes of the stored study; None if they are not stored of this trial.

    Studies before version 0.3 have none.
    """
    text = joined(facts, cell.layers_key)
    known = {} if text is None else json.loads(text)
    return [TrainedLayer(*layer) for layer in known["layers"]] if known.get("trial") == trial else None


def trained_layers(result: CombinationResult, cell: CellResult | None) -> list[TrainedLayer]:
    """The layers of a cell's winner in the model's order; empty if they are not stored, or there is no winner yet."""
    return [] if cell is None or cell.best is None else stored_layers(result.facts, cell.cell, cell.best.number) or []


def layer_rows(results: Sequence[CombinationResult]) -> list[LayerRow]:
    """One row per compressed layer of each cell's winner; winners whose layers are not stored are left out."""
    return [
        LayerRow(
            study=result.of,
            combination=result.name,
            rank=cell.cell.rank,
            init=cell.cell.init,
            trial=cell.winner.number,
            layer=layer.name,
            weights=layer.weights,
            bits_a_weight=layer.bits_a_weight,
            adapter_bits_a_weight=layer.adapter_bits_a_weight,
            error_before=layer.before,
            error_after=layer.after,
            codes_moved=layer.moved,
        )
        for result in results
        for cell in result.cells
        for layer in trained_layers(result, cell)
    ]
