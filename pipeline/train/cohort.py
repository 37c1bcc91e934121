"""The training loop: lanes in lockstep over the same batches, each with adapters and coefficients of its own.

Legend: ``T`` lanes, ``n`` images of a batch, ``P`` trained numbers of a lane. Lanes of like shapes form a stack; stacks
of other ranks stand beside it, and all lanes take one pass together.
"""

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.adapt.lanes import Lanes
from pipeline.guard import check_stop
from pipeline.seeds import derive
from pipeline.train.cut.program import Logits, Program
from pipeline.train.lane_optimizer import LaneOptimizer
from pipeline.train.optimizers.contract import Optimizer
from pipeline.train.recipe import Recipe
from pipeline.train.rows import Inputs, Rows

EVALUATION_IMAGES = 4096
EVALUATION_NUMBERS = 2**23
"""Most images, and most numbers of input and output, in one pass of an evaluation, all lanes together."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch of one lane came to; losses are means over images, accuracy is on the validation part."""

    train_loss: float
    val_loss: float
    val_accuracy: float


@dataclass
class Lane:
    """One trial in training: its values, what it trains, and how it went so far.

    Args:
        parameters: The tensors of its adapter, by name.
        alpha: Alpha of its adapter.
        optimizer: Optimizer of its parameters.
        lr: Peak learning rate.
        seed: Seed of its batch order; lanes of one cohort share it.
        frozen: Which of the parameters are its own, and yet never trained.
        base: What tells its compressed model from those of lanes with other bases.
    """

    parameters: dict[str, Tensor]
    alpha: float
    optimizer: Optimizer
    lr: float
    batch_size: int
    seed: int
    frozen: frozenset[str] = frozenset()
    base: Hashable = None
    moments: tuple[Tensor, Tensor] | None = None
    curve: list[Epoch] = field(default_factory=list)
    best_parameters: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    failure: str | None = None
    seconds: float = 0.0

    @property
    def best(self) -> float:
        """Validation accuracy of the best epoch; the first of equals."""
        return self.curve[self.best_epoch - 1].val_accuracy

    @property
    def pace(self) -> tuple[object, ...]:
        """Lanes that agree in this meet the same batches next on the same base, and may share a cohort."""
        return self.batch_size, self.seed, len(self.curve), self.base

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Lanes that agree in this as well may share a stack."""
        return {name: tensor.shape for name, tensor in self.parameters.items()}


def train_epoch(
    lanes: Sequence[Lane],
    program: Program,
    train: Rows,
    val: Rows,
    recipe: Recipe,
) -> None:
    """Train lanes of one pace for one epoch and evaluate them; each lane's state is brought up to date.

    A lane whose loss is not finite fails at once, in training before the optimizer's step, in evaluation before its
    accuracy counts; its neighbours' numbers stay the same.

    Args:
        lanes: Lanes of one ``pace``.
        program: How they compute.
        train: What they are trained on.
        val: What they are judged on.
        recipe: What all lanes share.
    """
    started = time.perf_counter()
    cohort = Cohort(lanes, program, recipe)
    losses = cohort.train(train)
    if not all(lane.failure for lane in lanes):
        val_losses, correct = cohort.evaluate(val)
    cohort.save()
    share = (time.perf_counter() - started) / len(lanes)
    for place, lane in enumerate(cohort.lanes):
        lane.seconds += share
        if lane.failure is not None:
            continue
        loss = val_losses[place]
        if not math.isfinite(loss):  # the epoch's last step broke it
            lane.failure = f"validation loss {loss} after epoch {len(lane.curve) + 1}, learning rate {lane.lr:.3g}"
        else:
            accuracy = correct[place] / len(val)
            lane.curve.append(Epoch(losses[place], loss, accuracy))
            if len(lane.curve) == 1 or accuracy > lane.best:
                lane.best_epoch = len(lane.curve)
                kept = program.adapter.rounded(lane.parameters)
                lane.best_parameters = {name: tensor.clone() for name, tensor in kept.items()}


class _Stack:
    """Lanes of like shapes: one flat tensor of what they train ``[T, P]``, of which layers see parts."""

    def __init__(self, lanes: Sequence[Lane], device: str) -> None:
        # Adjacent lanes with the same rule are updated together.
        self.lanes = sorted(lanes, key=lambda lane: lane.optimizer.name)
        first = self.lanes[0]
        self._shapes = {name: shape for name, shape in first.shapes.items() if name not in first.frozen}
        self.flat = torch.stack([self._flattened(lane) for lane in self.lanes]).to(device)
        zeros = torch.zeros_like(self.flat[0], device="cpu")
        moments = [lane.moments or (zeros, zeros) for lane in self.lanes]
        self.m, self.v = (torch.stack(each).to(device) for each in zip(*moments, strict=True))
        self.optimizer = LaneOptimizer(self.flat, self.m, self.v, [lane.optimizer.rule for lane in self.lanes])
        self.trained = {name: nn.Parameter(part) for name, part in self._parts(self.flat).items()}
        self.frozen = {
            name: torch.stack([lane.parameters[name] for lane in self.lanes]).to(device) for name in first.frozen
        }

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All tensors of its lanes."""
        return {**self.trained, **self.frozen}

    def _flattened(self, lane: Lane) -> Tensor:
        return torch.cat([lane.parameters[name].flatten() for name in self._shapes] or [torch.empty(0)])

    def _parts(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = torch.split(flat, [shape.numel() for shape in self._shapes.values()], 1)
        own = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.view(len(flat), *shape) for (name, shape), piece in own}

    def save(self) -> None:
        """Give each lane its own state back."""
        own = self._parts(self.flat.cpu())
        for place, lane in enumerate(self.lanes):
            lane.parameters |= {name: part[place] for name, part in own.items()}
            lane.moments = (self.m[place].cpu(), self.v[place].cpu())


class Cohort:
    """Lanes of one pace for one epoch; ``lanes`` stand in the order of its stacks."""

    def __init__(self, lanes: Sequence[Lane], program: Program, recipe: Recipe) -> None:
        alike: list[list[Lane]] = []
        for lane in lanes:
            stack = next((stack for stack in alike if stack[0].shapes == lane.shapes), None)
            stack.append(lane) if stack is not None else alike.append([lane])
        self.recipe = recipe
        self._stacks = [_Stack(own, recipe.device) for own in alike]
        self.lanes = [lane for stack in self._stacks for lane in stack.lanes]
        self._trained = [p for stack in self._stacks for p in stack.trained.values()]
        self._like = next(program.model.parameters())
        self._program = program
        self._image_numbers = 1
        self._logits = self._bound([stack.parameters for stack in self._stacks])

    def _bound(self, parameters: Sequence[Mapping[str, Tensor]]) -> Logits:
        """How its lanes compute with some tensors, a mapping for each stack."""
        alphas = [[lane.alpha for lane in stack.lanes] for stack in self._stacks]
        own = Lanes(list(zip(parameters, alphas, strict=True)))
        return self._program.bind(own, self.recipe.compute.compile)

    def _as_stored(self) -> Logits:
        """How its lanes compute with their tensors as they come back from a file."""
        held = [stack.parameters for stack in self._stacks]
        rounded = [self._program.adapter.rounded(parameters) for parameters in held]
        as_they_are = all(one is other for one, other in zip(held, rounded, strict=True))
        return self._logits if as_they_are else self._bound(rounded)

    def _losses(self, logits_of: Logits, inputs: Inputs, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss ``[T]`` and logits ``[T, n, classes]`` of one batch; a teacher's logits are its last tensor."""
        recipe, dtype = self.recipe, self._like.dtype
        device, half = torch.device(recipe.device), recipe.compute.precision == "bfloat16"
        given = [tensor.to(device, dtype, non_blocking=True) for tensor in inputs]
        if recipe.compute.channels_last:
            given = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in given]
        teacher = given.pop() if recipe.loss.needs_teacher else None
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = logits_of(*given)
        by_lane = torch.unflatten(logits.to(dtype), 0, (len(self.lanes), -1))
        return recipe.loss.losses(by_lane, labels.to(device, non_blocking=True), teacher), by_lane

    def train(self, rows: Rows) -> list[float]:
        """One epoch; the mean loss of each lane."""
        lead, count = self.lanes[0], len(rows)
        steps = -(-count // lead.batch_size)
        before = steps * len(lead.curve)
        generator = torch.Generator().manual_seed(derive(lead.seed, "order", len(lead.curve)))
        order = torch.randperm(count, generator=generator)
        total = torch.zeros(len(self.lanes), dtype=torch.float64)
        for step, (inputs, labels) in enumerate(rows.batches(lead.batch_size, order)):
            check_stop()
            self._image_numbers = sum(tensor[0].numel() for tensor in inputs)
            losses, _ = self._losses(self._logits, inputs, labels)
            values = losses.detach().cpu().double()
            rates = [self.recipe.rate(lane.lr, before + step, steps) for lane in self.lanes]
            for lane, value, rate in zip(self.lanes, values.tolist(), rates, strict=True):
                if not math.isfinite(value) and lane.failure is None:
                    epoch = len(lead.curve) + 1
                    lane.failure = f"loss {value} at step {step + 1} of epoch {epoch}, learning rate {rate:.3g}"
            if all(lane.failure for lane in self.lanes):
                break
            if self._trained:
                self._step(torch.autograd.grad(losses.sum(), self._trained), rates, before + step + 1)
            total += values * len(labels)
        return (total / count).tolist()

    def _step(self, gradients: Sequence[Tensor], rates: Sequence[float], t: int) -> None:
        own, start = iter(gradients), 0
        for stack in self._stacks:
            g = torch.cat([next(own).flatten(1) for _ in stack.trained], 1)
            stop = start + len(stack.lanes)
            stack.optimizer.step(g, rates[start:stop], t, [lane.failure is None for lane in stack.lanes])
            start = stop

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> tuple[list[float], list[int]]:
        """Mean loss and right answers of each lane, its tensors as they come back from a file."""
        stored = self._as_stored()
        loss = torch.zeros(len(self.lanes), dtype=torch.float64)
        correct = torch.zeros(len(self.lanes), dtype=torch.int64)
        at_once = min(EVALUATION_IMAGES, EVALUATION_NUMBERS // self._image_numbers) // len(self.lanes)
        for inputs, labels in rows.batches(max(1, at_once)):
            check_stop()
            losses, logits = self._losses(stored, inputs, labels)
            loss += losses.cpu().double() * len(labels)
            correct += (logits.argmax(2) == labels.to(logits.device)).sum(1).cpu()
        return (loss / len(rows)).tolist(), correct.tolist()

    def save(self) -> None:
        """Give each lane its own state back."""
        for stack in self._stacks:
            stack.save()
