"""Multilayer perceptrons on the pixels of small images."""

import math
from collections import OrderedDict
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.config.registry import MODELS
from pipeline.errors import SpecError
from pipeline.task.models.contract import ModelSource, Positive, Preprocessing


@MODELS.register("mlp")
class Mlp(ModelSource):
    """Linear layers fc1, fc2, ... with ReLU and dropout between; trained by the task's baseline."""

    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=2)]
    """Inputs, hidden units, outputs. Inputs are side x side for grey images, 3 x side x side for colour."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """After each hidden ReLU, while the baseline is trained."""
    mean: Annotated[tuple[float, ...], Field(strict=False)] = (0.0,)
    """Mean of the pixels in 0..1: one number, or one per channel."""
    std: Annotated[tuple[Positive, ...], Field(strict=False)] = (1.0,)
    """Standard deviation of the pixels in 0..1: one number, or one per channel."""

    @model_validator(mode="after")
    def _inputs_are_an_image(self) -> "Mlp":
        channels, side = self._input()
        if channels * side**2 != self.widths[0]:
            raise ValueError(
                f"widths begins with {self.widths[0]}, which is neither side * side (grey) nor 3 * side * side "
                f"(colour); for 28 px it is 784 or 2352"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} has {len(values)} values for {channels} channels; give 1 or {channels}")
        return self

    def _input(self) -> tuple[int, int]:
        """Channels and side in pixels. No number is both a square and three times a square."""
        grey = math.isqrt(self.widths[0])
        return (1, grey) if grey**2 == self.widths[0] else (3, math.isqrt(self.widths[0] // 3))

    @property
    def pretrained(self) -> bool:
        return False

    def build(self, classes: int) -> nn.Module:
        if self.widths[-1] != classes:
            raise SpecError(
                f"task.model.widths ends with {self.widths[-1]}, and the data has {classes} classes; end it with "
                f"{classes}"
            )
        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        last = len(self.widths) - 1
        for index in range(1, last + 1):
            layers.append((f"fc{index}", nn.Linear(self.widths[index - 1], self.widths[index])))
            if index < last:
                layers += [(f"relu{index}", nn.ReLU()), (f"dropout{index}", nn.Dropout(self.dropout))]
        return nn.Sequential(OrderedDict(layers))

    def load(self, classes: int) -> nn.Module:
        return self.build(classes)

    def pretrained_classes(self) -> int:
        return self.widths[-1]

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        channels, side = self._input()
        mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (self.mean, self.std))

        def transform(image: Image.Image) -> Tensor:
            image = image.convert("L" if channels == 1 else "RGB")
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image, dtype=np.float32)).view(side, side, channels)
            return (pixels.permute(2, 0, 1) / 255 - mean) / std

        colours = "grey" if channels == 1 else "RGB"
        steps = f"resize to {side} x {side} (bilinear), {colours}, scale to 0..1"
        facts = {"input": [channels, side, side], "mean": list(self.mean), "std": list(self.std), "steps": steps}
        return Preprocessing(transform, facts)
