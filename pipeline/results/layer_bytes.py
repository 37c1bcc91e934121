"""What each layer takes, as the run has written it into the stored study."""

import json
from typing import TypedDict

from pipeline.results.stored_results import CombinationResult
from pipeline.store.long_text import joined


class LayerSize(TypedDict):
    """One compressed layer; all in bytes."""

    name: str
    dense: int
    """The original layer, its bias included."""
    payload: int
    """The compressed weight."""
    index: int
    scale: int
    bias: int
    adapter: dict[str, int]
    """By rank, as JSON writes it."""


def layer_sizes(result: CombinationResult) -> list[LayerSize]:
    """The compressed layers of a combination in the model's order; none where an older version ran the study."""
    text = joined(result.facts, "layers")
    return [] if text is None else json.loads(text)


def compressed_bytes(layer: LayerSize) -> int:
    """Of a layer, its adapter apart."""
    return layer["payload"] + layer["index"] + layer["scale"] + layer["bias"]
