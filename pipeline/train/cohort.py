"""The training loop: lanes in lockstep over the same batches, each with adapters and coefficients of its own.

Legend: ``T`` lanes, ``n`` images of a batch, ``P`` trained numbers of a lane. A batch enters the model ``T`` times
over, ``[T * n, ...]``: frozen layers in eval mode treat every image alone, adapted layers find their lane by position.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.contract import Adapter
from pipeline.compress.layers import shared_copy
from pipeline.seeds import derive
from pipeline.spec import OptimizerName
from pipeline.task.contract import Part
from pipeline.train.optimizers import LaneOptimizer

EVALUATION_IMAGES = 2048
EVALUATION_NUMBERS = 2**23
"""Most images and most input numbers in one forward pass of an evaluation, all lanes together: 55 images of 224 px."""


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
        parameters: What the adapter trains, by name.
        alpha: Alpha of its adapter.
        optimizer: Name of its update rule.
        lr: Peak learning rate.
        seed: Seed of its batch order; lanes of one cohort share it.
    """

    parameters: dict[str, Tensor]
    alpha: float
    optimizer: OptimizerName
    lr: float
    batch_size: int
    seed: int
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
    def likeness(self) -> tuple[object, ...]:
        """Lanes that agree in this may share a cohort."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in self.parameters.items())
        return self.batch_size, self.seed, len(self.curve), shapes


@dataclass(frozen=True)
class Recipe:
    """What all lanes of a study share: number of epochs, the rate's schedule, and the device."""

    epochs: int
    schedule: str = "constant"
    device: str = "cpu"

    def rate(self, lr: float, done: float) -> float:
        """The learning rate after the share ``done`` of all steps."""
        return lr if self.schedule == "constant" else lr * 0.5 * (1 + math.cos(math.pi * done))


def train_epoch(
    lanes: Sequence[Lane],
    model: nn.Module,
    adapter: Adapter,
    train: Part,
    val: Part,
    recipe: Recipe,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train like lanes for one epoch and evaluate them; each lane's state is brought up to date.

    A lane whose loss is not finite fails at once, in training before the optimizer's step, in evaluation before its
    accuracy counts; its neighbours' numbers stay the same.

    Args:
        lanes: Lanes of one ``likeness``.
        model: The compressed model, on the recipe's device; it is not changed.
        adapter: What is trained.
        train: What it is trained on.
        val: What it is judged on.
        recipe: What all lanes share.
        check: Called before every batch; what it raises ends the epoch.
    """
    started = time.perf_counter()
    cohort = _Cohort(lanes, model, adapter, recipe)
    losses = cohort.train(train, check)
    val_losses, correct = cohort.evaluate(val, check)
    cohort.save()
    share = (time.perf_counter() - started) / len(lanes)
    for place, lane in enumerate(lanes):
        lane.seconds += share
        loss = val_losses[place]
        if not math.isfinite(loss) and lane.failure is None:  # the epoch's last step broke it
            lane.failure = f"validation loss {loss} after epoch {len(lane.curve) + 1}, learning rate {lane.lr:.3g}"
        if lane.failure is None:
            accuracy = correct[place] / len(val)
            lane.curve.append(Epoch(losses[place], loss, accuracy))
            if len(lane.curve) == 1 or accuracy > lane.best:
                lane.best_epoch = len(lane.curve)
                lane.best_parameters = {name: tensor.clone() for name, tensor in lane.parameters.items()}


class _Cohort:
    """Like lanes, stacked: one flat tensor of parameters ``[T, P]``, of which the model holds views."""

    def __init__(self, lanes: Sequence[Lane], model: nn.Module, adapter: Adapter, recipe: Recipe) -> None:
        self.lanes, self.recipe = lanes, recipe
        first = lanes[0].parameters
        self.shapes: Mapping[str, torch.Size] = {name: tensor.shape for name, tensor in first.items()}
        self.flat = self._stack([_flatten(lane.parameters) for lane in lanes])
        zeros = torch.zeros_like(self.flat[0])
        moments = [lane.moments or (zeros, zeros) for lane in lanes]
        self.m, self.v = self._stack([m for m, _ in moments]), self._stack([v for _, v in moments])
        self.model = shared_copy(model)
        held = adapter.attach(self.model, self._views(self.flat), [lane.alpha for lane in lanes])
        self.trained = [held[name].requires_grad_(True) for name in self.shapes]
        self.optimizer = LaneOptimizer(self.flat, self.m, self.v, [lane.optimizer for lane in lanes])

    def _stack(self, vectors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(vectors)).to(self.recipe.device)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        views, start = {}, 0
        for name, shape in self.shapes.items():
            views[name] = flat[:, start : start + shape.numel()].view(len(flat), *shape)
            start += shape.numel()
        return views

    def _losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss ``[T]`` and right answers ``[T]`` of one batch."""
        T = len(self.lanes)
        images = images.to(self.recipe.device, self.flat.dtype)
        labels = labels.to(self.recipe.device).repeat(T)
        logits = self.model(images.repeat(T, *[1] * (images.ndim - 1)))
        losses = F.cross_entropy(logits, labels, reduction="none").view(T, -1).mean(1)
        return losses, (logits.argmax(1) == labels).view(T, -1).sum(1)

    def train(self, part: Part, check: Callable[[], None]) -> list[float]:
        """One epoch; the mean loss of each lane."""
        lead, count = self.lanes[0], len(part)
        steps = -(-count // lead.batch_size)
        done = steps * len(lead.curve)
        generator = torch.Generator().manual_seed(derive(lead.seed, "order", len(lead.curve)))
        order = torch.randperm(count, generator=generator)
        total = torch.zeros(len(self.lanes), dtype=torch.float64)
        for images, labels in part.batches(lead.batch_size, order):
            check()
            self.image_numbers = images[0].numel()
            losses, _ = self._losses(images, labels)
            values = losses.detach().cpu().double()
            rates = [self.recipe.rate(lane.lr, done / (steps * self.recipe.epochs)) for lane in self.lanes]
            done += 1
            for lane, value, rate in zip(self.lanes, values.tolist(), rates, strict=True):
                if not math.isfinite(value) and lane.failure is None:
                    step, epoch = done - steps * len(lead.curve), len(lead.curve) + 1
                    lane.failure = f"loss {value} at step {step} of epoch {epoch}, learning rate {rate:.3g}"
            live = [lane.failure is None for lane in self.lanes]
            if not any(live):
                break
            gradients = torch.autograd.grad(losses.sum(), self.trained)
            self.optimizer.step(torch.cat([g.flatten(1) for g in gradients], 1), rates, done, live)
            total += values * len(labels)
        return (total / count).tolist()

    @torch.no_grad()
    def evaluate(self, part: Part, check: Callable[[], None]) -> tuple[list[float], list[int]]:
        """Mean loss and right answers of each lane."""
        loss = torch.zeros(len(self.lanes), dtype=torch.float64)
        correct = torch.zeros(len(self.lanes), dtype=torch.int64)
        at_once = min(EVALUATION_IMAGES, EVALUATION_NUMBERS // self.image_numbers) // len(self.lanes)
        for images, labels in part.batches(max(1, at_once)):
            check()
            losses, right = self._losses(images, labels)
            loss += losses.cpu().double() * len(labels)
            correct += right.cpu()
        return (loss / len(part)).tolist(), correct.tolist()

    def save(self) -> None:
        """Give each lane its own state back."""
        for place, lane in enumerate(self.lanes):
            own = self._views(self.flat[place : place + 1].cpu())
            lane.parameters = {name: view[0] for name, view in own.items()}
            lane.moments = (self.m[place].cpu(), self.v[place].cpu())


def _flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in parameters.values()])
