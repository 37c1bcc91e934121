"""The cosine schedule, without restarts (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""

import math

from pipeline.config.registry import SCHEDULES
from pipeline.train.contract import Schedule


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Half a cosine from the peak rate to zero: for trials of several epochs, which settle at their end."""

    def share(self, step: int, steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / steps))
