"""The constant schedule."""

from pipeline.config.registry import SCHEDULES
from pipeline.train.contract import Schedule


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The peak rate at every step."""

    def share(self, step: int, steps: int) -> float:
        return 1.0
