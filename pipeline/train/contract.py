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
    """Coefficients of the update rule, named as in its formulas."""

    b1: float  # decay of the first moment, per step
    b2: float = 0.0  # decay of the second moment, per step
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.0  # share of the parameter that a step removes, per unit of the learning rate
    adaptive: bool = False  # whether the step is divided by the root of the second moment
    nesterov: bool = False  # whether a plain step looks ahead along the momentum
    corrected: bool = False  # whether the moments of an adaptive step are corrected for their start at zero


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
        """The share of the peak rate at ``step``, from 0, of the ``steps`` after the warm-up; 1 at the first."""
