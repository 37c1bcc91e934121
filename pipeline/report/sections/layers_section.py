"""What each layer takes, before and after, in numbers."""

from collections.abc import Sequence

from pipeline.report.blocks import Block, Column, Folded, Table, table
from pipeline.report.numbers_text import rank_said, size
from pipeline.results.layer_bytes import LayerSize, compressed_bytes, layer_sizes
from pipeline.results.stored_results import CombinationResult


def layer_tables(results: Sequence[CombinationResult]) -> list[Block]:
    """The bytes of every compressed layer, a folded table for each combination that has written them."""
    known = [(result, sizes) for result in results if (sizes := layer_sizes(result))]
    return [Folded(f"Layers of {result.label}, in numbers", [_table(result, sizes)]) for result, sizes in known]


def _table(result: CombinationResult, sizes: Sequence[LayerSize]) -> Table:
    ranks = sorted({int(rank) for layer in sizes for rank in layer["adapter"]})
    kind = "budget" if result.budget_unit else "rank"
    adapters = {
        "adapter" if rank == 0 else f"adapter, {kind} {rank_said(result, rank)}": Column[LayerSize](
            "number",
            lambda layer, rank=rank: size(layer["adapter"].get(str(rank))),  # type: ignore[misc]
        )
        for rank in ranks
    }
    return table(
        "Bytes of each compressed layer; the adapter comes on top of the compressed size",
        {
            "layer": Column("text", lambda layer: layer["name"]),
            "original": Column("number", lambda layer: size(layer["dense"])),
            "compressed": Column("number", lambda layer: size(compressed_bytes(layer))),
            "of it weights": Column("number", lambda layer: size(layer["payload"])),
            "indices": Column("number", lambda layer: _some(layer["index"])),
            "scales": Column("number", lambda layer: _some(layer["scale"])),
            "bias": Column("number", lambda layer: _some(layer["bias"])),
            **adapters,
        },
        [*sizes, _total(sizes)],
        best=lambda layer: layer["name"] == "all of them",
    )


def _some(count: int) -> str:
    return size(count) if count else ""


def _total(sizes: Sequence[LayerSize]) -> LayerSize:
    ranks = dict.fromkeys(rank for layer in sizes for rank in layer["adapter"])
    return LayerSize(
        name="all of them",
        dense=sum(layer["dense"] for layer in sizes),
        payload=sum(layer["payload"] for layer in sizes),
        index=sum(layer["index"] for layer in sizes),
        scale=sum(layer["scale"] for layer in sizes),
        bias=sum(layer["bias"] for layer in sizes),
        adapter={rank: sum(layer["adapter"].get(rank, 0) for layer in sizes) for rank in ranks},
    )
