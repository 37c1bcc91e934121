"""One update rule with per-lane coefficients: SGD, Nesterov, Adam, AdamW and RMSprop lanes share a step.

With gradient ``g``, parameter ``p`` and step ``t``::

    m <- b1 m + g                                        where plain, (1 - b1) g where adaptive
    v <- b2 v + (1 - b2) g^2                             where adaptive
    d  = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)   where adaptive (Kingma and Ba, 2015, arXiv:1412.6980),
         g + b1 m                                        where Nesterov (Sutskever et al., 2013),
         m                                               otherwise
    p <- p (1 - lr wd) - lr d                            (Loshchilov and Hutter, 2019, arXiv:1711.05101)

RMSprop is the adaptive form without momentum and without bias correction. Coefficients are those of ``torch.optim``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from pipeline.config.spec import OptimizerName


@dataclass(frozen=True)
class Rule:
    """Coefficients of one optimizer, named as above."""

    b1: float
    b2: float = 0.0
    eps: float = 1e-8
    weight_decay: float = 0.0
    adaptive: bool = False
    nesterov: bool = False
    corrected: bool = False


RULES: dict[OptimizerName, Rule] = {
    "sgd": Rule(b1=0.9),
    "nesterov": Rule(b1=0.9, nesterov=True),
    "adam": Rule(b1=0.9, b2=0.999, adaptive=True, corrected=True),
    "adamw": Rule(b1=0.9, b2=0.999, weight_decay=0.01, adaptive=True, corrected=True),
    "rmsprop": Rule(b1=0.0, b2=0.99, adaptive=True),
}


class LaneOptimizer:
    """The update rule over the parameters of ``T`` lanes, ``[T, P]``.

    A step of many numbers is bound by memory, so every block of neighbours with one optimizer takes as few passes as
    the rule allows: 64 bytes a number for Adam, where one formula with masks for all took 176.

    Args:
        parameters: ``[T, P]``, updated in place.
        m, v: The moments, ``[T, P]``, zeros before the first step.
        names: The optimizer of each lane; lanes of one optimizer should be neighbours.
    """

    def __init__(self, parameters: Tensor, m: Tensor, v: Tensor, names: Sequence[OptimizerName]) -> None:
        self.parameters, self.m, self.v = parameters, m, v
        self._blocks: list[tuple[Rule, slice]] = []
        start = 0
        for name, lanes in groupby(names):
            stop = start + len(list(lanes))
            self._blocks.append((RULES[name], slice(start, stop)))
            start = stop

    @torch.no_grad()
    def step(self, g: Tensor, rates: Sequence[float], t: int, live: Sequence[bool]) -> None:
        """Update every live lane; one that is not live keeps every bit of its parameters.

        Args:
            g: Gradients, ``[T, P]``.
            rates: Learning rate of each lane.
            t: Number of this step, from 1.
            live: Which lanes are updated.
        """
        before = {place: self.parameters[place].clone() for place, alive in enumerate(live) if not alive}
        for rule, block in self._blocks:
            p, m, v, own = (tensor[block] for tensor in (self.parameters, self.m, self.v, g))
            lr = p.new_tensor(rates[block])[:, None]
            if rule.weight_decay:
                p.mul_(1 - lr * rule.weight_decay)
            if rule.adaptive:
                _adaptive(rule, p, m, v, own, lr, t)
            else:
                m.mul_(rule.b1).add_(own)
                p.addcmul_(torch.add(own, m, alpha=rule.b1) if rule.nesterov else m, -lr)
        for place, parameters in before.items():
            self.parameters[place] = parameters


def _adaptive(rule: Rule, p: Tensor, m: Tensor, v: Tensor, g: Tensor, lr: Tensor, t: int) -> None:
    """``p -= scale m / (sqrt(v) / v_share + eps)``, all but the last division in the denominator."""
    scale = lr / (1 - rule.b1**t if rule.corrected else 1)
    v_share = math.sqrt(1 - rule.b2**t) if rule.corrected else 1.0
    moment = m.lerp_(g, 1 - rule.b1) if rule.b1 else g
    v.mul_(rule.b2).addcmul_(g, g, value=1 - rule.b2)
    denominator = torch.addcmul(rule.eps / scale, v.sqrt(), 1 / (v_share * scale))
    p.addcdiv_(moment, denominator, value=-1)
