"""Shifts by whole pixels."""

import torch
from torch import Tensor

from pipeline.config.fields import Count
from pipeline.config.registry import AUGMENTATIONS
from pipeline.task.augmentations.contract import Augmentation, Scaling, moved


@AUGMENTATIONS.register("shift")
class Shift(Augmentation):
    """Moves each image by up to `pixels` along each axis; what comes into view is black: for digits and other marks."""

    pixels: Count = 2
    """The most pixels, up, down, left and right."""

    def augmented(self, images: Tensor, scaling: Scaling, generator: torch.Generator) -> Tensor:
        return moved(images, self.pixels, generator, scaling.black(images))
