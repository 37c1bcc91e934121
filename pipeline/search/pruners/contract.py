"""What a pruner is."""

from abc import abstractmethod

from optuna.pruners import BasePruner

from pipeline.config.registry import Method


class Pruner(Method):
    """Which trials of a cell end early, by their validation results so far."""

    @abstractmethod
    def build(self, startup: int) -> BasePruner:
        """The Optuna pruner of a cell; its steps are epochs, from 1.

        Args:
            startup: Start-up trials of the cell.
        """

    def expected_epochs(self, epochs: int, wave: int) -> float:
        """Epochs that a trial trains on average, for estimates: all of them if nothing is known.

        Args:
            epochs: Epochs of a trial that is not pruned.
            wave: Trials of a cell that run at the same time.
        """
        return epochs
