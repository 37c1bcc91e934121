"""Adam (Kingma and Ba, 2015, arXiv:1412.6980)."""

from pipeline.config.registry import OPTIMIZERS
from pipeline.train.contract import Optimizer, Rule


@OPTIMIZERS.register("adam")
class Adam(Optimizer):
    """Adam, with b1 = 0.9, b2 = 0.999, no weight decay: the one to try first, as it forgives a coarse rate."""

    @property
    def rule(self) -> Rule:
        return Rule(b1=0.9, b2=0.999, adaptive=True, corrected=True)
