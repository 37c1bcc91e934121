"""One update rule with per-lane coefficients: SGD, Nesterov, Adam, AdamW and RMSprop lanes share a step.

With gradient ``g``, parameter ``p`` and step ``t``::

    m <- b1 m + c1 g          (c1 = 1 for momentum, 1 - b1 for Adam)
    v <- b2 v + (1 - b2) g^2
    d  = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)   where adaptive (Kingma and Ba, 2015, arXiv:1412.6980),
         g + b1 m                                        where Nesterov (Sutskever et al., 2013),
         m                                               otherwise
    p <- p (1 - lr wd) - lr d                            (Loshchilov and Hutter, 2019, arXiv:1711.05101)

RMSprop is the adaptive form without momentum and without bias correction. Coefficients are those of ``torch.optim``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.spec import OptimizerName


@dataclass(frozen=True)
class Rule:
    """Coefficients of one optimizer, named as above."""

    b1: float
    c1: float
    b2: float = 0.0
    eps: float = 1e-8
    weight_decay: float = 0.0
    adaptive: bool = False
    nesterov: bool = False
    corrected: bool = False


RULES: dict[OptimizerName, Rule] = {
    "sgd": Rule(b1=0.9, c1=1.0),
    "nesterov": Rule(b1=0.9, c1=1.0, nesterov=True),
    "adam": Rule(b1=0.9, c1=0.1, b2=0.999, adaptive=True, corrected=True),
    "adamw": Rule(b1=0.9, c1=0.1, b2=0.999, weight_decay=0.01, adaptive=True, corrected=True),
    "rmsprop": Rule(b1=0.0, c1=1.0, b2=0.99, adaptive=True),
}


class LaneOptimizer:
    """The update rule over the parameters of ``T`` lanes, ``[T, P]``.

    Args:
        parameters: ``[T, P]``, updated in place.
        m, v: The moments, ``[T, P]``, zeros before the first step.
        names: The optimizer of each lane.
    """

    def __init__(self, parameters: Tensor, m: Tensor, v: Tensor, names: Sequence[OptimizerName]) -> None:
        self.parameters, self.m, self.v = parameters, m, v
        self._rules = [RULES[name] for name in names]

        def column(field: str) -> Tensor:
            return self._column([float(getattr(rule, field)) for rule in self._rules])

        self._b1, self._c1, self._b2, self._eps = column("b1"), column("c1"), column("b2"), column("eps")
        self._weight_decay, self._nesterov = column("weight_decay"), column("nesterov")
        self._adaptive = column("adaptive").bool()

    def _column(self, values: Sequence[float]) -> Tensor:
        return self.parameters.new_tensor(values)[:, None]

    @torch.no_grad()
    def step(self, g: Tensor, rates: Sequence[float], t: int, live: Sequence[bool]) -> None:
        """Update every live lane; one that is not live keeps every bit of its parameters.

        Args:
            g: Gradients, ``[T, P]``.
            rates: Learning rate of each lane.
            t: Number of this step, from 1.
            live: Which lanes are updated.
        """
        self.m.mul_(self._b1).add_(self._c1 * g)
        self.v.mul_(self._b2).add_((1 - self._b2) * g * g)
        m_share = self._column([1 - rule.b1**t if rule.corrected else 1.0 for rule in self._rules])
        v_share = self._column([math.sqrt(1 - rule.b2**t) if rule.corrected else 1.0 for rule in self._rules])
        rate = self._column(rates)
        plain = torch.lerp(self.m, g + self._b1 * self.m, self._nesterov)
        adaptive = self.m / m_share / (self.v.sqrt() / v_share + self._eps)
        direction = torch.where(self._adaptive, adaptive, plain)
        moved = self.parameters * (1 - rate * self._weight_decay) - rate * direction
        alive = torch.tensor(live, device=moved.device)[:, None]
        self.parameters.copy_(torch.where(alive, moved, self.parameters))
