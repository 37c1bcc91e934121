"""What the stored study of a combination says of it, beside its settings, hashes and trials."""

import json
from dataclasses import asdict
from typing import Any

from pipeline.compress.sizes import LayerSize, StoredModel, model_size
from pipeline.config.spec import StudySpec
from pipeline.objective.combination import Combination
from pipeline.run.recorded_spectra import watched_layers
from pipeline.search.budget import search_notes
from pipeline.space import cells
from pipeline.store.stored_study import in_chunks

LONG = ("class_names", "data_notes", "extra_state", "model_notes")
"""Facts of a task that may be too long for an attribute of a stored study."""


def study_facts(spec: StudySpec, combination: Combination) -> dict[str, Any]:
    """The attributes of the stored study of a combination, beside its settings, hashes and trials; plain Python."""
    search = combination.search
    coded = model_size(combination.original, StoredModel(combination.compressed), coded=True)
    return {
        "study": spec.name,
        "combination": combination.name,
        "budget": search.trials,
        "epochs": search.epochs,
        "cells": [[cell.rank, cell.init] for cell in cells(search)],
        "task": {key: value for key, value in combination.task.description.items() if key not in LONG},
        "targets": len(combination.targets),
        "dense_bytes": combination.compressed_size.dense_bytes,
        "compressed_bytes": coded.bytes,
        "dense_macs": combination.facts(search.ranks[0]).dense_macs,
        "spectra": watched_layers(spec, combination.task),
        "notes": [*search_notes(spec.search, combination.adapter), *combination.compressed.notes],
        **in_chunks("layers", json.dumps(layer_bytes(combination))),
        **_chosen(combination),
    }


def _chosen(combination: Combination) -> dict[str, Any]:
    """The facts that tell what was scored for options and an init that are "auto", and what was chosen.

    There are none if nothing is, or if it was chosen in an earlier run, whose facts stay.
    """
    tried = {"tried": combination.tried, "tried_inits": combination.tried_inits}
    facts: dict[str, Any] = {}
    for key, scores in tried.items():
        if scores:
            facts |= in_chunks(key, json.dumps([one._asdict() for one in scores]))
            facts["auto"] = {**facts.get("auto", {}), **scores[0].options}
    return facts


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
