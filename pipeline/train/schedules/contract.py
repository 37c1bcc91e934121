"""What a learning rate schedule is."""

from abc import abstractmethod

from pipeline.config.registry import Method


class Schedule(Method):
    """The learning rate over a trial, after its warm-up, as a share of the peak rate."""

    @abstractmethod
    def share(self, step: int, steps: int) -> float:
        """The share of the peak rate at a step; 1 at the first.

        Args:
            step: Number of the step after the warm-up, from 0.
            steps: How many steps follow the warm-up.
        """
