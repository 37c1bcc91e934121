"""What a sampler is."""

from abc import abstractmethod
from typing import ClassVar

from optuna.samplers import BaseSampler

from pipeline.config.fields import Count
from pipeline.config.registry import Method


class Sampler(Method):
    """How a cell's next values are chosen from its own trials so far."""

    learns: ClassVar[bool] = True
    """Whether it learns from earlier trials, so that a budget has to leave it trials after the start-up."""

    startup: Count = 4
    """Random trials of each cell before the first modelled one."""

    @abstractmethod
    def build(self, seed: int) -> BaseSampler:
        """The Optuna sampler that chooses the values of one trial, with that trial's own seed."""
