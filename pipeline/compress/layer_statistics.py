"""Second moments of layer inputs, and what the loss makes of layer outputs, gathered from training data."""

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


def gather_sensitivity(
    model: nn.Module, targets: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """``E ||g||^2 / (2 out)`` of each target layer, ``g`` the gradient of an image's loss in all the layer's outputs.

    It is the mean of the diagonal of the empirical Fisher information, half of it: where a layer's outputs are off by
    ``d``, the cross-entropy grows by about ``sensitivity * E ||d||^2``, a mean over the vectors ``[out]`` of all
    positions (Theis et al., 2018, arXiv:1801.05787).

    Args:
        model: The uncompressed model, in eval mode.
        targets: Names of Linear and Conv2d layers.
        batches: Images and labels from the training part.
    """
    squares, images_seen = dict.fromkeys(targets, 0.0), 0
    outputs: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, _: object, output: Tensor) -> Tensor:
            outputs.append((name, output.requires_grad_()))
            return output.clone()  # what follows may change it in place

        return model.get_submodule(name).register_forward_hook(hook)

    hooks = [watch(name) for name in targets]
    try:
        with torch.enable_grad():
            for images, labels in batches:
                outputs.clear()
                loss = F.cross_entropy(model(images), labels, reduction="sum")  # so that each image's is its own
                gradients = torch.autograd.grad(loss, [output for _, output in outputs], materialize_grads=True)
                for (name, _), gradient in zip(outputs, gradients, strict=True):
                    squares[name] += float(gradient.double().square().sum())
                images_seen += len(labels)
    finally:
        for hook in hooks:
            hook.remove()
    outs = {name: len(model.get_submodule(name).get_parameter("weight")) for name in targets}
    return {name: square / (2 * images_seen * outs[name]) for name, square in squares.items()}


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


def calibration(train: Part) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of some images of the training part and their labels, always the same."""
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:CALIBRATION_IMAGES]
    return train.batches(32, chosen)


class Statistics:
    """The statistics of a task's layers, gathered once, when a method first asks for them.

    Args:
        model: The uncompressed model.
        train: The training part.
    """

    def __init__(self, model: nn.Module, train: Part) -> None:
        self._model, self._train = model, train
        self._moments: dict[str, Sequence[LayerStats]] = {}
        self._sensitivity: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, targets: Sequence[str]) -> Mapping[str, Sequence[LayerStats]]:
        """Second moments of the inputs of each target."""
        with self._lock:
            missing = [name for name in targets if name not in self._moments]
            if missing:
                self._moments |= gather_statistics(
                    self._model, missing, (images for images, _ in calibration(self._train))
                )
            return {name: self._moments[name] for name in targets}

    def sensitivity(self, targets: Sequence[str]) -> Mapping[str, float]:
        """How much the loss grows with the error of each target's outputs (``gather_sensitivity``)."""
        with self._lock:
            missing = [name for name in targets if name not in self._sensitivity]
            if missing:
                self._sensitivity |= gather_sensitivity(self._model, missing, calibration(self._train))
            return {name: self._sensitivity[name] for name in targets}
