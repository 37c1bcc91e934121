"""What a combination's compression knows of the layers' inputs, and how biases take the means of later changes.

Later changes are those of an init: another base, and a low-rank sum that is not zero. What is learned later is not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.adapt.lanes import SeparateLayer
from pipeline.compress.contract import Compression, LayerCompression, LayerStats
from pipeline.compress.layer_statistics import Statistics, calibration
from pipeline.compress.layers import in_groups
from pipeline.compress.model_stats import ModelStats
from pipeline.compress.prefix_statistics import PrefixStatistics, Start, from_images
from pipeline.task.parts import Part
from pipeline.train.cut.graph import Cut, cut, cut_head
from pipeline.train.cut.trace import CannotCutError
from pipeline.train.rows import HELD

PROBES = 4
"""Images that show where a model can be cut."""


def prefix_images(compression: Compression, targets: Sequence[str], train: Part) -> int:
    """Images on which statistics are gathered behind the compressed layers, the most of any target; 0 if none are."""
    methods = (compression.of_layer(name) for name in targets)
    wanted = max(method.prefix if isinstance(method, LayerCompression) else 0 for method in methods)
    return min(wanted, len(train))


def compression_stats(
    compression: Compression, targets: Sequence[str], statistics: Statistics, train: Part
) -> ModelStats:
    """Statistics of the targets whose compression needs any: of the uncompressed model, or layer after layer.

    They are all gathered layer after layer if one of the targets asks for it.
    """
    needing = [name for name in targets if compression.of_layer(name).needs_statistics]
    if images := prefix_images(compression, targets, train):
        return PrefixStatistics(
            statistics.model, needing, lambda: prefix_start(statistics.model, targets, train, images)
        )
    return statistics.of(needing) if needing else {}


@torch.no_grad()
def prefix_start(model: nn.Module, targets: Sequence[str], train: Part, count: int) -> Start:
    """Passes begin behind the layers before the first target, whose outputs are computed once, if memory holds them."""
    made, _ = _beginning(model, targets, train, count)
    batches = (images for images, _ in calibration(train, count))
    if made is None or made.stem is None:
        return from_images(list(batches))()
    return Start([made.stem(images) for images in batches], made.without_lanes)


def prefix_bytes(model: nn.Module, targets: Sequence[str], train: Part, count: int) -> int:
    """Bytes of the batches of ``prefix_start``."""
    return _beginning(model, targets, train, count)[1]


@torch.no_grad()
def _beginning(model: nn.Module, targets: Sequence[str], train: Part, count: int) -> tuple[Cut | None, int]:
    """The cut that passes over ``count`` images begin behind, None for the images themselves, and what memory holds."""
    images, _ = next(calibration(train, min(count, PROBES)))
    made = _cut_before(model, targets, images)
    if made is not None and made.stem is not None:
        held = _bytes_of(made.stem(images), count)
        if held <= HELD:
            return made, held
    return None, _bytes_of((images,), count)


def _bytes_of(tensors: Sequence[Tensor], count: int) -> int:
    """Bytes of ``count`` rows like those of some tensors."""
    return sum(count * tensor.nbytes // len(tensor) for tensor in tensors)


def _cut_before(model: nn.Module, targets: Sequence[str], images: Tensor) -> Cut | None:
    """The cut of a model before some layers, if one gives the model's outputs."""
    layers = {name: SeparateLayer(model.get_submodule(name)) for name in targets}
    for make_cut in (cut, cut_head):
        try:
            made, expected = make_cut(model, layers, images), model(images)
            outputs = made.without_lanes(model)(*(made.stem(images) if made.stem else (images,)))
        except (CannotCutError, RuntimeError):
            continue
        if outputs.shape == expected.shape and torch.allclose(outputs, expected, rtol=1e-3):
            return made
    return None


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
