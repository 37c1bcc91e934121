"""Where the factors of low-rank adapters start."""

import functools
from collections.abc import Mapping

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import layer_in_errors, weight_matrix
from pipeline.compress.model_stats import ModelStats
from pipeline.compress.small_tensors import compress_as_stored
from pipeline.seeds import derive


def start_factors(
    init: Init,
    ranks: Mapping[str, int],
    seed: int,
    compressed: CompressedModel,
    compression: Compression,
    stats: ModelStats,
) -> dict[str, Start]:
    """The factors of each adapted layer as an init begins them, and the base where it moves that.

    Args:
        init: The init.
        ranks: The rank of each layer that is adapted.
        seed: Of what is drawn, with the index of the layer.
        compressed: The model that is adapted; weights are compressed anew to the values that a file of it holds.
        compression: How it was compressed.
        stats: Statistics of the uncompressed model's layers; none where neither init nor compression needs any.

    Raises:
        IntegrityError: A weight cannot be decomposed.
    """
    starts = {}
    for i, (name, weight) in enumerate(compressed.weights.items()):
        if name not in ranks:
            continue
        generator = torch.Generator().manual_seed(derive(seed, "init", i))
        layer, inputs = compressed.reference.get_submodule(name), stats.get(name, ())
        method = compression.of_layer(name).sharing_with(weight)
        compress = functools.partial(compress_as_stored, method, compressed.storage, layer, inputs)
        with layer_in_errors(name):
            adapted = AdaptedLayer(weight_matrix(layer), weight, compress, inputs)
            starts[name] = init.start(adapted, ranks[name], generator)
    return starts
