"""Second moments of layer inputs, gathered from training data in one pass."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compress.contract import LayerStats
from pipeline.compress.layers import group_count
from pipeline.task.contract import Part


@torch.no_grad()
def gather_statistics(
    model: nn.Module, targets: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, Sequence[LayerStats]]:
    """``C = E[x x^T]`` of the inputs of each target layer, one for each group of a convolution.

    Args:
        model: The uncompressed model, in eval mode.
        targets: Names of Linear and Conv2d layers.
        batches: Images from the training part.
    """
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(targets, 0)

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = input_vectors(layer, inputs[0]).double()
            sums[name] = sums.get(name, 0) + x.mT @ x
            counts[name] += x.shape[1]

        return model.get_submodule(name).register_forward_pre_hook(hook)

    hooks = [watch(name) for name in targets]
    try:
        for images in batches:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: [LayerStats(group.cpu() / counts[name]) for group in sums[name]] for name in targets}


def input_vectors(layer: nn.Module, x: Tensor) -> Tensor:
    """The vectors that a layer's weight matrix meets, ``[groups, n, in]``: rows of ``x``, or patches of images."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1])
    if isinstance(layer, Conv2dSame):  # it pads by the size of its input, in its forward
        x = pad_same(x, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
    padding = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    patches = F.unfold(F.pad(x, padding, mode=mode), layer.kernel_size, layer.dilation, 0, layer.stride)
    grouped = patches.reshape(len(patches), group_count(layer), -1, patches.shape[2])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def output_positions(model: nn.Module, names: Sequence[str], images: Tensor) -> Mapping[str, int]:
    """How often each layer's weight matrix meets a vector, for one image; ``images`` is a batch of one."""
    seen = dict.fromkeys(names, 0)

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, _: object, output: Tensor) -> None:
            channels = layer.get_parameter("weight").shape[0]
            seen[name] += output.numel() // channels

        return model.get_submodule(name).register_forward_hook(hook)

    hooks = [watch(name) for name in names]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


CALIBRATION_IMAGES = 2048
"""Training images that statistics are gathered from; second moments of many positions or few inputs settle sooner."""


def calibration(train: Part) -> Iterator[Tensor]:
    """Batches of some images of the training part, always the same."""
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:CALIBRATION_IMAGES]
    return (images for images, _ in train.batches(32, chosen))


class Statistics:
    """The statistics of a task's layers, gathered once, when a method first asks for them.

    Args:
        model: The uncompressed model.
        train: The training part.
    """

    def __init__(self, model: nn.Module, train: Part) -> None:
        self._model, self._train = model, train
        self._known: dict[str, Sequence[LayerStats]] = {}
        self._lock = threading.Lock()

    def of(self, targets: Sequence[str]) -> Mapping[str, Sequence[LayerStats]]:
        """Second moments of the inputs of each target."""
        with self._lock:
            missing = [name for name in targets if name not in self._known]
            if missing:
                self._known |= gather_statistics(self._model, missing, calibration(self._train))
            return {name: self._known[name] for name in targets}
