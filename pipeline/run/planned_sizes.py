"""The sizes that the trials of a rank will have, before any training."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from pipeline.adapt.contract import blank, stored_model
from pipeline.compress.sizes import model_size
from pipeline.compress.training_compression import TrainingCompression
from pipeline.objective.combination import Combination
from pipeline.objective.outline import Outline


def plan_rank(combination: Combination, rank: int) -> dict[str, Any]:
    """Sizes of every trial of a rank, or of a budget with an allocation; exact before training."""
    facts, has_budgets = combination.facts(rank), combination.search.allocation is not None
    estimated = combination.storage.coding != "none" and not isinstance(combination.compression, TrainingCompression)
    layers = facts.size.layers
    return {
        "rank": rank,
        "trainable": facts.trainable,
        "bytes": facts.size.bytes,
        # What entropy coding leaves of them, from the codes before any training; None without it.
        "coded_bytes": coded_bytes(combination, facts.ranks) if estimated else None,
        "ratio": facts.size.ratio,
        "layer_ratio": facts.size.layer_ratio,
        # Of the whole model, as papers count it: without index bits, scales and buffers.
        "published_ratio": facts.size.published_ratio(),
        "macs_ratio": facts.dense_macs / facts.macs,
        # Layers that cannot take the rank, each with the rank that it gets.
        "clipped": {} if has_budgets else {name: r for name, r in facts.ranks.items() if r < rank},
        # The rank of each layer under a budget, 0 for no adapter.
        "spread": {name: facts.ranks.get(name, 0) for name in layers} if has_budgets else None,
        # Layers whose adapter is at least as large as their dense weight.
        "larger": [name for name, layer in layers.items() if layer.adapter >= layer.dense],
        # Layers that the compression would not shrink, or that the adapter trains whole.
        "dense": [
            name
            for name, layer in layers.items()
            if layer.is_dense and combination.compression.of_layer(name).name != "none"
        ],
        "tensors": {
            f"{name}.{kind}": bits // 8
            for name, layer in layers.items()
            for kind, bits in {**asdict(layer.base), "adapter": layer.adapter}.items()
            if bits and kind != "bias"
        },
    }


def coded_bytes(combination: Combination, ranks: Mapping[str, int]) -> int:
    """About the bytes of a trial's file, where each adapted layer has its rank; training changes codes a little.

    They are those of the compressed model with an untrained adapter, whose zeros are random numbers.
    """
    combination = combination.realised if isinstance(combination, Outline) else combination
    generator, base = torch.Generator().manual_seed(0), combination.compressed
    begun = blank(combination.adapter, base, ranks)
    for name, tensor in begun.items():
        if tensor.ndim > 1 and tensor.is_floating_point() and not tensor.any():
            begun[name] = torch.randn(tensor.shape, generator=generator).to(tensor)
    return model_size(combination.original, stored_model(combination.adapter, base, begun), coded=True).bytes
