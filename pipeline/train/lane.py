"""Lanes: trials in training, and stacks of lanes with equal shapes, whose parameters form one tensor.

Legend: ``T`` lanes of a stack, ``P`` trained parameters of a lane.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn

from pipeline.train.contract import Optimizer, Rule


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch of one lane: mean losses over the images, and the accuracy on the validation part."""

    train_loss: float
    val_loss: float
    val_accuracy: float


@dataclass
class Lane:
    """One trial in training: its values, its parameters, and its course so far."""

    parameters: dict[str, Tensor]  # of its adapter, by name
    alpha: float
    optimizer: Optimizer
    lr: float  # the peak learning rate
    batch_size: int
    seed: int  # of its batch order
    frozen: frozenset[str] = frozenset()  # names of the parameters that get no gradient
    base: Hashable = None  # identifies its compressed model
    moments: tuple[Tensor, Tensor] | None = None  # the optimizer's, (m, v) of [P]; None before the first epoch
    curve: list[Epoch] = field(default_factory=list)
    best_parameters: dict[str, Tensor] = field(default_factory=dict)  # as an exported file would hold them
    best_epoch: int = 0  # from 1; the first of equals
    failure: str | None = None  # why the lane failed
    seconds: float = 0.0  # the time its epochs took, its share of each cohort's

    @property
    def best(self) -> float:
        """The validation accuracy of the best epoch."""
        return self.curve[self.best_epoch - 1].val_accuracy

    @property
    def cohort_key(self) -> tuple[object, ...]:
        """Lanes with equal keys may share a cohort: they meet the same batches next, on the same compressed model."""
        return self.batch_size, self.seed, len(self.curve), self.base

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shapes of its parameters; lanes of a cohort with equal shapes share a stack."""
        return {name: tensor.shape for name, tensor in self.parameters.items()}


class Stack:
    """Lanes with equal shapes, whose trained parameters are views of one tensor ``[T, P]``."""

    def __init__(self, lanes: Sequence[Lane], device: str) -> None:
        # Adjacent lanes with the same optimizer share the passes of its step.
        self.lanes = sorted(lanes, key=lambda lane: lane.optimizer.name)
        first = self.lanes[0]
        self._shapes = {name: shape for name, shape in first.shapes.items() if name not in first.frozen}
        flattened = [
            torch.cat([lane.parameters[name].flatten() for name in self._shapes] or [torch.empty(0)])
            for lane in self.lanes
        ]
        self._flat = torch.stack(flattened).to(device)
        zeros = torch.zeros_like(self._flat[0], device="cpu")
        moments = [lane.moments or (zeros, zeros) for lane in self.lanes]
        self._m, self._v = (torch.stack(moment).to(device) for moment in zip(*moments, strict=True))
        rules = [lane.optimizer.rule for lane in self.lanes]
        self._optimizer = LaneOptimizer(self._flat, self._m, self._v, rules)
        self.trained = {name: nn.Parameter(view) for name, view in self._views(self._flat).items()}
        self._frozen = {
            name: torch.stack([lane.parameters[name] for lane in self.lanes]).to(device) for name in first.frozen
        }

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All tensors of its lanes, ``[T, ...]``."""
        return {**self.trained, **self._frozen}

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters ``[T, ...]`` in a tensor ``[T, P]``, by name."""
        columns = torch.split(flat, [shape.numel() for shape in self._shapes.values()], 1)
        named = zip(self._shapes.items(), columns, strict=True)
        return {name: part.view(len(flat), *shape) for (name, shape), part in named}

    def step(self, gradients: Sequence[Tensor], rates: Sequence[float], t: int) -> None:
        """Step number ``t``, from 1, of the lanes that have not failed; gradients are in the order of ``trained``."""
        flat = torch.cat([gradient.flatten(1) for gradient in gradients], 1)
        self._optimizer.step(flat, rates, t, [lane.failure is None for lane in self.lanes])

    def save(self) -> None:
        """Write parameters and moments back to the lanes."""
        views = {**self._views(self._flat.cpu()), **{name: tensor.cpu() for name, tensor in self._frozen.items()}}
        for index, lane in enumerate(self.lanes):
            lane.parameters |= {name: view[index] for name, view in views.items()}
            lane.moments = (self._m[index].cpu(), self._v[index].cpu())


class LaneOptimizer:
    """The update rule over the parameters of ``T`` lanes and their moments ``m`` and ``v``, ``[T, P]``, in place.

    A step over many parameters is bound by memory bandwidth, so adjacent lanes with the same rule are updated together
    with as few passes as their rule allows: Adam moves 64 bytes per parameter, where one masked formula for all rules
    moved 176. The formulas are in ``pipeline.train.contract``; the moments are zero before the first step.
    """

    def __init__(self, parameters: Tensor, m: Tensor, v: Tensor, rules: Sequence[Rule]) -> None:
        self.parameters, self.m, self.v = parameters, m, v
        self._blocks: list[tuple[Rule, slice]] = []
        for rule, lanes in groupby(range(len(rules)), rules.__getitem__):
            block = list(lanes)
            self._blocks.append((rule, slice(block[0], block[-1] + 1)))

    @torch.no_grad()
    def step(self, g: Tensor, rates: Sequence[float], t: int, live: Sequence[bool]) -> None:
        """Step number ``t``, from 1, with gradients ``g [T, P]``; lanes that are not live keep every bit."""
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
