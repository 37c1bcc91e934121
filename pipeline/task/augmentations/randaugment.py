"""RandAugment (Cubuk, Zoph, Shlens, Le, 2020, arXiv:1909.13719)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from pipeline.config.fields import Count
from pipeline.config.registry import AUGMENTATIONS
from pipeline.task.augmentations.contract import Augmentation, Scaling


def _tv() -> Any:
    """The functions of torchvision, which is imported when they are first needed: that takes a second."""
    from torchvision.transforms import v2

    return v2.functional  # its exports are not marked as such for type checkers


def _sheared(pixels: Tensor, x: float, y: float) -> Tensor:
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    sheared: Tensor = _tv().affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0])
    return sheared


def _translated(pixels: Tensor, x: float, y: float) -> Tensor:
    moved: Tensor = _tv().affine(pixels, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])
    return moved


FARTHEST = 150 / 331
"""Share of the side by which the strongest translation moves an image."""
SIGNED: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "shear x": lambda x, m: _sheared(x, 0.3 * m, 0.0),
    "shear y": lambda x, m: _sheared(x, 0.0, 0.3 * m),
    "translate x": lambda x, m: _translated(x, FARTHEST * x.shape[-1] * m, 0.0),
    "translate y": lambda x, m: _translated(x, 0.0, FARTHEST * x.shape[-2] * m),
    "rotate": lambda x, m: _tv().rotate(x, 30 * m),
    "brightness": lambda x, m: _tv().adjust_brightness(x, 1 + 0.9 * m),
    "colour": lambda x, m: _tv().adjust_saturation(x, 1 + 0.9 * m),
    "contrast": lambda x, m: _tv().adjust_contrast(x, 1 + 0.9 * m),
    "sharpness": lambda x, m: _tv().adjust_sharpness(x, 1 + 0.9 * m),
}
"""Operations whose strength ``m``, from 0 to 1, gets a random sign."""
UNSIGNED: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda x, m: x,
    "posterize": lambda x, m: _tv().posterize(x, round(8 - 4 * m)),
    "solarize": lambda x, m: _tv().solarize(x, 255 * (1 - m)),
    "autocontrast": lambda x, m: _tv().autocontrast(x),
    "equalize": lambda x, m: _tv().equalize(x),
}


@AUGMENTATIONS.register("randaugment")
class RandAugment(Augmentation):
    """Some of 14 random operations, one after another, each equally strong: for photographs and long trainings."""

    operations: Count = 2
    """Operations on each image."""
    magnitude: int = Field(9, ge=0, le=30)
    """Strength of all operations; 30 is the strongest."""

    def augmented(self, images: Tensor, scaling: Scaling, generator: torch.Generator) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"they have {images.shape[1]} channels, and colours are those of 1 or 3")
        pixels = (scaling.pixels(images) * 255).round().clamp(0, 255).to(torch.uint8)
        strength = self.magnitude / 30
        changes = [(change, sign * strength) for change in SIGNED.values() for sign in (1, -1)]
        changes += [(change, strength) for change in UNSIGNED.values() for _ in range(2)]  # all 14 equally often
        for _ in range(self.operations):
            chosen = torch.randint(len(changes), (len(images),), generator=generator)
            for index in sorted(set(chosen.tolist())):
                change, m = changes[index]
                places = (chosen == index).nonzero().flatten().to(images.device)
                pixels[places] = change(pixels[places], m)
        return scaling.normalised(pixels.to(images.dtype) / 255)
