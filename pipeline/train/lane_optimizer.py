"""One update step over all lanes of a stack; its formulas are in ``pipeline.train.contract``."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from pipeline.train.contract import Rule


class LaneOptimizer:
    """The update rule over the parameters of ``T`` lanes, ``[T, P]``.

    A step over many parameters is bound by memory bandwidth, so adjacent lanes with the same rule are updated together
    with as few passes as their rule allows: Adam moves 64 bytes per parameter, where one masked formula for all rules
    moved 176.

    Args:
        parameters: ``[T, P]``, updated in place, as the moments are.
        m: First moments ``[T, P]``, zeros before the first step.
        v: Second moments ``[T, P]``, zeros before the first step.
        rules: The rule of each lane; lanes with the same rule should be adjacent.
    """

    def __init__(self, parameters: Tensor, m: Tensor, v: Tensor, rules: Sequence[Rule]) -> None:
        self.parameters, self.m, self.v = parameters, m, v
        self._blocks: list[tuple[Rule, slice]] = []
        for rule, lanes in groupby(range(len(rules)), rules.__getitem__):
            block = list(lanes)
            self._blocks.append((rule, slice(block[0], block[-1] + 1)))

    @torch.no_grad()
    def step(self, g: Tensor, rates: Sequence[float], t: int, live: Sequence[bool]) -> None:
        """Update every live lane; the parameters of the others keep every bit.

        Args:
            g: Gradients ``[T, P]``.
            rates: Learning rate of each lane.
            t: Number of this step, from 1.
            live: Whether each lane is updated.
        """
        unchanged = {lane: self.parameters[lane].clone() for lane, alive in enumerate(live) if not alive}
        for rule, block in self._blocks:
            p, m, v, gradient = (tensor[block] for tensor in (self.parameters, self.m, self.v, g))
            lr = p.new_tensor(rates[block])[:, None]
            if rule.weight_decay:
                p.mul_(1 - lr * rule.weight_decay)
            if rule.adaptive:
                _adaptive(rule, (p, m, v), gradient, lr, t)
            else:
                m.mul_(rule.b1).add_(gradient)
                p.addcmul_(torch.add(gradient, m, alpha=rule.b1) if rule.nesterov else m, -lr)
        for lane, parameters in unchanged.items():
            self.parameters[lane] = parameters


def _adaptive(rule: Rule, state: tuple[Tensor, Tensor, Tensor], g: Tensor, lr: Tensor, t: int) -> None:
    """``p -= scale m / (sqrt(v) / v_share + eps)`` with one division per parameter, for ``state = (p, m, v)``."""
    p, m, v = state
    scale = lr / (1 - rule.b1**t if rule.corrected else 1)
    v_share = math.sqrt(1 - rule.b2**t) if rule.corrected else 1.0
    moment = m.lerp_(g, 1 - rule.b1) if rule.b1 else g
    v.mul_(rule.b2).addcmul_(g, g, value=1 - rule.b2)
    denominator = torch.addcmul(rule.eps / scale, v.sqrt(), 1 / (v_share * scale))
    p.addcdiv_(moment, denominator, value=-1)
