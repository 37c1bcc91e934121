"""What a sampler and a pruner are: how a cell chooses its next values, and which of its trials end early."""

from abc import abstractmethod
from typing import ClassVar

from optuna.pruners import BasePruner
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


class Pruner(Method):
    """Which trials of a cell end early, by their validation results so far."""

    @abstractmethod
    def build(self, startup: int) -> BasePruner:
        """The Optuna pruner of a cell with this many start-up trials; its steps are epochs, from 1."""

    def expected_epochs(self, epochs: int, wave: int) -> float:
        """Epochs that a trial trains on average, for estimates: all of its ``epochs`` if nothing is known.

        A ``wave`` is the number of trials of a cell that run at the same time.
        """
        return epochs
