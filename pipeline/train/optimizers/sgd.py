"""Stochastic gradient descent with momentum (Polyak, 1964)."""

from pipeline.config.registry import OPTIMIZERS
from pipeline.train.contract import Optimizer, Rule


@OPTIMIZERS.register("sgd")
class Sgd(Optimizer):
    """Stochastic gradient descent with momentum 0.9: one step size for all, so search its rate widely."""

    @property
    def rule(self) -> Rule:
        return Rule(b1=0.9)
