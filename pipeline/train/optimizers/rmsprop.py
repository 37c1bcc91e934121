"""RMSprop (Tieleman and Hinton, 2012), without momentum and without bias correction."""

from pipeline.config.registry import OPTIMIZERS
from pipeline.train.contract import Optimizer, Rule


@OPTIMIZERS.register("rmsprop")
class RMSprop(Optimizer):
    """RMSprop: the gradient divided by its running root mean square, b2 = 0.99; an Adam without momentum."""

    @property
    def rule(self) -> Rule:
        return Rule(b1=0.0, b2=0.99, adaptive=True)
