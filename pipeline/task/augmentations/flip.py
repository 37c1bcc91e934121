"""Horizontal flips."""

from typing import ClassVar

import torch
from torch import Tensor

from pipeline.config.registry import AUGMENTATIONS
from pipeline.task.augmentations.contract import Augmentation, Scaling


@AUGMENTATIONS.register("flip")
class Flip(Augmentation):
    """Mirrors each image left to right with probability 1/2: for photographs, and not for digits or letters."""

    needs_scaling: ClassVar[bool] = False

    def augmented(self, images: Tensor, scaling: Scaling, generator: torch.Generator) -> Tensor:
        flipped = torch.randint(2, (len(images), 1, 1, 1), generator=generator) > 0
        return torch.where(flipped.to(images.device), images.flip(3), images)
