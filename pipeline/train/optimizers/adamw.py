"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

from pipeline.config.registry import OPTIMIZERS
from pipeline.train.contract import Optimizer, Rule


@OPTIMIZERS.register("adamw")
class AdamW(Optimizer):
    """Adam with a decoupled weight decay of 0.01: where few images are overfitted."""

    @property
    def rule(self) -> Rule:
        return Rule(b1=0.9, b2=0.999, weight_decay=0.01, adaptive=True, corrected=True)
