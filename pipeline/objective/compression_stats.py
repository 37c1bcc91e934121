"""What a combination's compression knows of the layers' inputs, and how biases take the means of later changes.

Later changes are those of an init: another base, and a low-rank sum that is not zero. What is learned later is not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.compress.contract import Compression, LayerCompression, LayerStats
from pipeline.compress.layer_statistics import Statistics, calibration
from pipeline.compress.layers import in_groups
from pipeline.compress.model_stats import ModelStats
from pipeline.compress.prefix_statistics import PrefixStatistics
from pipeline.task.parts import Part


def prefix_images(compression: Compression, targets: Sequence[str], train: Part) -> int:
    """Images on which statistics are gathered behind the compressed layers; 0 if none are."""
    methods = (compression.of_layer(name) for name in targets)
    wanted = max(method.prefix if isinstance(method, LayerCompression) else 0 for method in methods)
    return min(wanted, len(train))


def compression_stats(
    compression: Compression, targets: Sequence[str], statistics: Statistics, train: Part
) -> ModelStats:
    """Statistics of the targets whose compression needs any: of the uncompressed model, or layer after layer."""
    needing = [name for name in targets if compression.of_layer(name).needs_statistics]
    if images := prefix_images(compression, targets, train):
        return PrefixStatistics(statistics.model, needing, [batch for batch, _ in calibration(train, images)])
    return statistics.of(needing) if needing else {}


def corrected_layers(compression: Compression, model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The targets whose bias the compression corrects."""
    methods = {name: compression.of_layer(name) for name in targets}
    return [
        name
        for name, method in methods.items()
        if isinstance(method, LayerCompression) and method.corrects_bias(model.get_submodule(name))
    ]


def take_mean(layer: nn.Module, change: Tensor, stats: Sequence[LayerStats]) -> None:
    """Let a layer's bias take the mean of what a ``change [out, in]`` of its weight adds to its outputs, in place."""
    shift = torch.cat([group @ its.mean for group, its in zip(in_groups(layer, change), stats, strict=True)])
    bias = layer.get_parameter("bias")
    corrected = (bias.double() - shift.to(bias.device)).to(bias.dtype)
    layer.register_parameter("bias", nn.Parameter(corrected, requires_grad=False))
