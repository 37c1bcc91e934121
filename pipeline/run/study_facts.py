"""The attributes of a stored study, beside its settings, hashes and trials."""

import json
from dataclasses import asdict
from typing import Any

from pipeline.compress.sizes import LayerSize
from pipeline.config.spec import StudySpec
from pipeline.objective.combination import Combination
from pipeline.run.recorded_spectra import watched_layers
from pipeline.space import cells
from pipeline.store.stored_study import in_chunks


def study_facts(spec: StudySpec, combination: Combination) -> dict[str, Any]:
    """The attributes of the stored study of a combination; plain Python."""
    search = combination.search
    return {
        "study": spec.name,
        "combination": combination.name,
        "budget": search.trials,
        "epochs": search.epochs,
        "cells": [[cell.rank, cell.init] for cell in cells(search)],
        "task": dict(combination.task.description),
        "targets": len(combination.targets),
        "dense_bytes": combination.compressed_size.dense_bytes,
        "compressed_bytes": combination.compressed_size.bytes,
        "dense_macs": combination.facts(search.ranks[0]).dense_macs,
        "spectra": watched_layers(spec, combination.task.model),
        **in_chunks("layers", json.dumps(layer_bytes(combination))),
    }


def layer_bytes(combination: Combination) -> list[dict[str, Any]]:
    """Bytes of each compressed layer: the dense original with its bias, the compressed layer, and each rank's adapter.

    ``cells`` holds the bytes of those cells whose init moves a base that is sized by its values.
    """
    by_rank = {rank: combination.facts(rank).size.layers for rank in combination.search.ranks}
    by_cell = {
        str(cell): combination.facts(cell).size.layers
        for cell in cells(combination.search)
        if combination.moves_base(cell) and not combination.compression.sized_by_shape
    }
    return [
        {
            "name": name,
            "dense": (size.dense + size.bias) // 8,
            **_parts(size),
            "adapter": {str(rank): (layers[name].bits() - size.bits()) // 8 for rank, layers in by_rank.items()},
            **({"cells": {cell: _parts(layers[name]) for cell, layers in by_cell.items()}} if by_cell else {}),
        }
        for name, size in combination.compressed_size.layers.items()
    ]


def _parts(size: LayerSize) -> dict[str, int]:
    return {kind: bits // 8 for kind, bits in {**asdict(size.base), "adapter": size.adapter}.items()}
