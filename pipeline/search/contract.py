"""What a sampler and a pruner are: how a cell chooses its next values, and which of its trials end early."""

from abc import abstractmethod
from typing import ClassVar

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from pipeline.config.fields import Count
from pipeline.config.registry import Method
from pipeline.config.search_spec import SearchSpec
from pipeline.wording import counted


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

    def expected_epochs(self, search: SearchSpec) -> float:
        """Epochs that the trials of a cell train together, for estimates: all of them if nothing is known."""
        return search.epochs * search.trials

    def idle(self, search: SearchSpec) -> str | None:
        """Why it can end no trial of such a search early, with the key to change; None if it may end some."""
        return None


def too_late(first: int, search: SearchSpec) -> str | None:
    """Why no decision is made, if the first one comes after ``first`` epochs; the last epoch decides nothing."""
    if first < search.epochs:
        return None
    change = f", or search.pruner.first below {search.epochs}" if search.epochs > 1 else ""
    return (
        f"its first decision comes after epoch {first}, and trials have {counted(search.epochs, 'epoch')}; set "
        f"search.epochs above {first}{change}"
    )
