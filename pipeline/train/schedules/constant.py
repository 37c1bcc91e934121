"""The constant schedule."""

from pipeline.config.registry import SCHEDULES
from pipeline.train.contract import Schedule


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The peak rate at every step: for short trials, and where the rate itself is what is compared."""

    def share(self, step: int, steps: int) -> float:
        return 1.0
