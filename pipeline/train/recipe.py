"""What all lanes of a study share: epochs, the rate's schedule, and how numbers are computed."""

import math
from dataclasses import dataclass, field

from pipeline.config.spec import ComputeSpec
from pipeline.train.losses.contract import Loss
from pipeline.train.losses.cross_entropy import CrossEntropy


@dataclass(frozen=True)
class Recipe:
    """How every lane is trained.

    Args:
        epochs: How long.
        schedule: ``constant``, or ``cosine``: one half cosine from the peak rate to zero.
        warmup: Epochs over which the rate rises linearly to its peak first.
        device: Where it is trained.
        compute: Precision, memory format and compilation.
        loss: What is made small.
    """

    epochs: int
    schedule: str = "constant"
    warmup: float = 0.0
    device: str = "cpu"
    compute: ComputeSpec = field(default_factory=ComputeSpec)
    loss: Loss = field(default_factory=CrossEntropy)

    def rate(self, lr: float, step: int, steps_an_epoch: int) -> float:
        """The learning rate of a step, counted from 0, of a trial whose peak rate is ``lr``."""
        rising = round(self.warmup * steps_an_epoch)
        if step < rising:
            return lr * (step + 1) / (rising + 1)
        if self.schedule == "constant":
            return lr
        return lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (self.epochs * steps_an_epoch - rising)))
