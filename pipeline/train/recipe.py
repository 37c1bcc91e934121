"""What all lanes of a study share: epochs, the learning rate's schedule, the loss, and how results are computed."""

from dataclasses import dataclass, field

from pipeline.config.spec import ComputeSpec
from pipeline.train.contract import Schedule
from pipeline.train.losses.contract import Loss
from pipeline.train.losses.cross_entropy import CrossEntropy
from pipeline.train.schedules.constant import Constant


@dataclass(frozen=True)
class Recipe:
    """How every lane is trained.

    Args:
        epochs: Epochs of each trial.
        schedule: The learning rate after the warm-up.
        warmup: Epochs over which the learning rate first rises linearly to its peak.
        device: Device of the training.
        compute: Precision, memory format and compilation.
        loss: What is minimized.
    """

    epochs: int
    schedule: Schedule = field(default_factory=Constant)
    warmup: float = 0.0
    device: str = "cpu"
    compute: ComputeSpec = field(default_factory=ComputeSpec)
    loss: Loss = field(default_factory=CrossEntropy)

    def rate(self, lr: float, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step.

        Args:
            lr: Peak rate of the trial.
            step: Number of the step, from 0.
            steps_per_epoch: Batches of an epoch.
        """
        rising = round(self.warmup * steps_per_epoch)
        if step < rising:
            return lr * (step + 1) / (rising + 1)
        return lr * self.schedule.share(step - rising, self.epochs * steps_per_epoch - rising)
