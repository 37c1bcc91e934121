"""The vectors that a layer's weight matrix multiplies: rows of its input, or patches of images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compress.layers import group_count
from pipeline.task.timm_layers import padded_by_size, pads_by_size


def input_vectors(layer: nn.Module, x: Tensor) -> Tensor:
    """The vectors that a layer's weight matrix multiplies, ``[groups, n, in]``: rows of ``x``, or patches of images."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1])
    patches = F.unfold(_padded(layer, x), layer.kernel_size, layer.dilation, 0, layer.stride)
    grouped = patches.reshape(len(patches), group_count(layer), -1, patches.shape[2])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def some_input_vectors(layer: nn.Module, x: Tensor, most: int, seed: int) -> Tensor:
    """``most`` of the ``input_vectors``, drawn at random by the shape of ``x`` and ``seed``; all if there are fewer.

    Only the patches that are drawn are taken from the images.
    """
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(layer, nn.Conv2d):
        vectors = input_vectors(layer, x)
        count = vectors.shape[1]
        return vectors if count <= most else vectors[:, torch.randperm(count, generator=generator)[:most]]
    x = _padded(layer, x).permute(0, 2, 3, 1).contiguous()  # the channels of a place are read together
    (kh, kw), (dh, dw), (sh, sw) = layer.kernel_size, layer.dilation, layer.stride
    n, height, width, channels = x.shape
    rows, columns = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    per_image, per_row, per_column, _ = x.stride()
    windows = x.as_strided(
        (n, rows, columns, kh, kw, channels),
        (per_image, per_row * sh, per_column * sw, per_row * dh, per_column * dw, 1),
    )
    drawn = torch.randperm(n * rows * columns, generator=generator)[:most].to(x.device)
    patches = windows[drawn // (rows * columns), drawn // columns % rows, drawn % columns]
    return patches.permute(0, 3, 1, 2).reshape(len(patches), group_count(layer), -1).transpose(0, 1)


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The images with the padding that the convolution adds."""
    if pads_by_size(layer):
        x = padded_by_size(layer, x)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
