"""Layers of timm that compute in ways of their own, known without an import of timm.

timm imports torchvision, and that the compiler of torch: 1.4 s on one core, 40 % of the start of a command whose model
needs neither. While timm is not imported no module can be one of its layers.
"""

import sys
from typing import Any

from torch import Tensor, nn


class _NotImported(nn.Module):
    """Stands for the class of a layer of which there can be no objects."""


def timm_layer(name: str) -> Any:
    """The class ``timm.layers.<name>``, such as ``"linear.Linear"``; one without objects while it is not imported."""
    module, _, kind = name.rpartition(".")
    return getattr(sys.modules.get(f"timm.layers.{module}"), kind, _NotImported)


def has_plain_forward(module: nn.Module) -> bool:
    """Whether a Linear or Conv2d layer multiplies with its weight as it is stored.

    A subclass with its own forward may transform its weight first, as weight standardisation does. A low-rank sum on
    the stored weight is then no low-rank sum on the weight that is multiplied.
    """
    plain = (nn.Linear, nn.Conv2d, timm_layer("linear.Linear"), timm_layer("conv2d_same.Conv2dSame"))
    return type(module).forward in [kind.forward for kind in plain] and "forward" not in vars(module)


def pads_by_size(layer: nn.Module) -> bool:
    """Whether it is a convolution that pads according to the size of its input, as TensorFlow does."""
    return isinstance(layer, timm_layer("conv2d_same.Conv2dSame"))


def padded_by_size(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The images ``x`` with the padding of such a convolution."""
    from timm.layers.padding import pad_same

    padded: Tensor = pad_same(x, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
    return padded
