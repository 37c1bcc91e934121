"""Crops of padded images, as for CIFAR (He, Zhang, Ren, Sun, 2016, arXiv:1512.03385)."""

from typing import Literal

import torch
from torch import Tensor

from pipeline.config.fields import Count
from pipeline.config.registry import AUGMENTATIONS
from pipeline.task.augmentations.contract import Augmentation, Scaling, moved


@AUGMENTATIONS.register("crop")
class Crop(Augmentation):
    """Pads each image and cuts a window of its size at a random place: with `flip`, the usual choice for CIFAR."""

    padding: Count = 4
    """Pixels added on each side."""
    edge: Literal["black", "reflect"] = "black"
    """What is added: black, which equals `shift`, or the image mirrored at its edge."""

    def augmented(self, images: Tensor, scaling: Scaling, generator: torch.Generator) -> Tensor:
        return moved(images, self.padding, generator, scaling.black(images) if self.edge == "black" else None)
