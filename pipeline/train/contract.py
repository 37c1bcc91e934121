"""What an optimizer and a schedule of trials are.

All optimizers share one update rule, and differ in its coefficients. With gradient ``g``, parameter ``p`` and step
``t``::

    m <- b1 m + g                                        if plain, (1 - b1) g if adaptive
    v <- b2 v + (1 - b2) g^2                             if adaptive
    d  = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)   if adaptive and corrected,
         m / (sqrt(v) + eps)                             if adaptive alone,
         g + b1 m                                        if Nesterov,
         m                                               otherwise
    p <- p (1 - lr weight_decay) - lr d                  (Loshchilov and Hutter, 2019, arXiv:1711.05101)
"""

from abc import abstractmethod
from dataclasses import dataclass

from pipeline.config.registry import Method


@dataclass(frozen=True)
class Rule:
    """Coefficients of the update rule, named as in its formulas.

    Args:
        b1: Decay of the first moment, per step.
        b2: Decay of the second moment, per step.
        eps: Added to the root of the second moment.
        weight_decay: Share of the parameter that a step removes, per unit of the learning rate.
        adaptive: Whether the step is divided by the root of the second moment.
        nesterov: Whether a plain step looks ahead along the momentum.
        corrected: Whether the moments of an adaptive step are corrected for their start at zero.
    """

    b1: float
    b2: float = 0.0
    eps: float = 1e-8
    weight_decay: float = 0.0
    adaptive: bool = False
    nesterov: bool = False
    corrected: bool = False


class Optimizer(Method):
    """An optimizer of trials. Trials with different optimizers are trained in one pass over the data."""

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """Its coefficients."""


class Schedule(Method):
    """The learning rate over a trial, after its warm-up, as a share of the peak rate."""

    @abstractmethod
    def share(self, step: int, steps: int) -> float:
        """The share of the peak rate at a step; 1 at the first.

        Args:
            step: Number of the step after the warm-up, from 0.
            steps: How many steps follow the warm-up.
        """
