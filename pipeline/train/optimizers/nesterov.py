"""Nesterov's accelerated gradient (Sutskever et al., 2013, proceedings.mlr.press/v28/sutskever13)."""

from pipeline.config.registry import OPTIMIZERS
from pipeline.train.contract import Optimizer, Rule


@OPTIMIZERS.register("nesterov")
class Nesterov(Optimizer):
    """Stochastic gradient descent with Nesterov momentum 0.9: as ``sgd``, for rates at which that overshoots."""

    @property
    def rule(self) -> Rule:
        return Rule(b1=0.9, nesterov=True)
