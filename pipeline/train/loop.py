"""The training loop: the lanes of a cohort train in lockstep, on the same batches.

Legend: ``T`` lanes, ``n`` images of a batch. Lanes with equal shapes form a stack; all stacks share one forward pass.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.adapt.lanes import Lanes
from pipeline.compress.layers import real_parameter
from pipeline.config.spec import ComputeSpec
from pipeline.guard import StopTraining, check_stop
from pipeline.seeds import derive
from pipeline.train.contract import Schedule
from pipeline.train.cut.program import Program
from pipeline.train.lane import Epoch, Lane, Stack
from pipeline.train.losses.contract import Loss
from pipeline.train.losses.cross_entropy import CrossEntropy
from pipeline.train.rows import Inputs, Rows
from pipeline.train.schedules.constant import Constant

Outputs = Callable[..., Tensor | Inputs]
"""From the tensors of ``n`` rows to logits ``[T * n, classes]``, or to these and the outputs of the loss's blocks."""
EVALUATION_IMAGES = 4096
"""The most images of all lanes together in one forward pass of an evaluation."""
EVALUATION_VALUES = 2**23
"""The most input values of all lanes together in one forward pass of an evaluation."""


@dataclass(frozen=True)
class Recipe:
    """How every lane of a study is trained; ``warmup`` is in epochs, in which the rate rises linearly to its peak."""

    epochs: int
    schedule: Schedule = field(default_factory=Constant)
    warmup: float = 0.0
    device: str = "cpu"
    compute: ComputeSpec = field(default_factory=ComputeSpec)
    loss: Loss = field(default_factory=CrossEntropy)

    def rate(self, lr: float, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0, of a trial with peak rate ``lr``."""
        rising = round(self.warmup * steps_per_epoch)
        if step < rising:
            return lr * (step + 1) / (rising + 1)
        return lr * self.schedule.share(step - rising, self.epochs * steps_per_epoch - rising)

    def autocast(self) -> torch.autocast:
        """The context in which models run during training, by ``compute.precision``."""
        half = self.compute.precision == "bfloat16"
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=half)

    def laid_out(self, images: Tensor) -> Tensor:
        """Images ``[n, C, H, W]`` as ``compute.channels_last`` lays them out; other tensors as they are."""
        wanted = self.compute.channels_last and images.ndim == 4
        return images.contiguous(memory_format=torch.channels_last) if wanted else images


def train_epoch(lanes: Sequence[Lane], program: Program, train: Rows, val: Rows, recipe: Recipe) -> None:
    """Train lanes with equal ``cohort_key`` for one epoch, evaluate them, and update their state.

    A lane whose loss is not finite fails at once: in training before the optimizer's step, in evaluation before its
    accuracy counts. The results of the other lanes do not change. If the active guard raises ``StopTraining``, the
    lanes keep their parameters and moments.
    """
    started = time.perf_counter()
    cohort = Cohort(lanes, program, recipe)
    losses = cohort.train(train)
    if not all(lane.failure for lane in lanes):
        val_losses, correct = cohort.evaluate(val)
    for stack in cohort.stacks:
        stack.save()
    share = (time.perf_counter() - started) / len(lanes)
    for index, lane in enumerate(cohort.lanes):
        lane.seconds += share
        if lane.failure is not None:
            continue
        loss = val_losses[index]
        if not math.isfinite(loss):  # the last step of the epoch diverged
            lane.failure = f"validation loss {loss} after epoch {len(lane.curve) + 1}, learning rate {lane.lr:.3g}"
        else:
            accuracy = correct[index] / len(val)
            lane.curve.append(Epoch(losses[index], loss, accuracy))
            if len(lane.curve) == 1 or accuracy > lane.best:
                lane.best_epoch = len(lane.curve)
                best = program.rounded(lane.parameters)
                lane.best_parameters = {name: tensor.clone() for name, tensor in best.items()}


class Cohort:
    """Lanes with equal ``cohort_key``, which train together for one epoch; ``lanes`` has them by stack."""

    def __init__(self, lanes: Sequence[Lane], program: Program, recipe: Recipe) -> None:
        groups: dict[object, list[Lane]] = {}
        for lane in lanes:
            groups.setdefault(tuple(sorted(lane.shapes.items())), []).append(lane)
        self.stacks = [Stack(group, recipe.device) for group in groups.values()]
        self.lanes = [lane for stack in self.stacks for lane in stack.lanes]
        self._program, self._recipe = program, recipe
        self._trained = [parameter for stack in self.stacks for parameter in stack.trained.values()]
        self._dtype = real_parameter(program.model).dtype
        self._values_per_image = 1
        self._logits = self._bind([stack.parameters for stack in self.stacks])

    def _bind(self, parameters: Sequence[Mapping[str, Tensor]]) -> Outputs:
        """The function from inputs to logits, for the parameters ``[T, ...]`` of each stack."""
        alphas = [[lane.alpha for lane in stack.lanes] for stack in self.stacks]
        lanes = Lanes(list(zip(parameters, alphas, strict=True)))
        if blocks := self._recipe.loss.blocks:
            return self._program.bind_blocks(lanes, blocks)
        return self._program.bind(lanes, self._recipe.compute.compile)

    def _losses(self, outputs_of: Outputs, inputs: Inputs, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses ``[T]`` and logits ``[T, n, classes]`` of a batch.

        With a teacher, the last tensors of ``inputs`` are its logits ``[n, classes]``, and then the outputs
        ``[n, ...]`` of the loss's blocks.
        """
        recipe, loss = self._recipe, self._recipe.loss
        device = torch.device(recipe.device)
        moved = [recipe.laid_out(tensor.to(device, self._dtype, non_blocking=True)) for tensor in inputs]
        own = len(moved) - (1 + len(loss.blocks) if loss.needs_teacher else 0)
        teacher = moved[own] if loss.needs_teacher else None
        with recipe.autocast():
            outputs = outputs_of(*moved[:own])
        logits, *blocks = (
            torch.unflatten(output.to(self._dtype), 0, (len(self.lanes), -1))
            for output in (outputs if isinstance(outputs, tuple) else (outputs,))
        )
        losses = loss.losses(logits, labels.to(device, non_blocking=True), teacher)
        if blocks:
            losses = losses + loss.block_losses(blocks, moved[own + 1 :])
        return losses, logits

    @torch.enable_grad()
    def train(self, rows: Rows) -> list[float]:
        """Train one epoch; returns the mean loss of each lane over the images."""
        lead, count = self.lanes[0], len(rows)
        epochs_done = len(lead.curve)
        steps = -(-count // lead.batch_size)
        generator = torch.Generator().manual_seed(derive(lead.seed, "order", epochs_done))
        order = torch.randperm(count, generator=generator)
        total = torch.zeros(len(self.lanes), dtype=torch.float64)
        for step, (inputs, labels) in enumerate(rows.batches(lead.batch_size, order)):
            check_stop()
            self._values_per_image = sum(tensor[0].numel() for tensor in inputs)
            losses, _ = self._losses(self._logits, inputs, labels)
            values = losses.detach().cpu().double()
            steps_done = steps * epochs_done + step
            rates = [self._recipe.rate(lane.lr, steps_done, steps) for lane in self.lanes]
            for lane, value, rate in zip(self.lanes, values.tolist(), rates, strict=True):
                if not math.isfinite(value) and lane.failure is None:
                    lane.failure = (
                        f"loss {value} at step {step + 1} of epoch {epochs_done + 1}, learning rate {rate:.3g}"
                    )
            if all(lane.failure for lane in self.lanes):
                break
            if self._trained:
                loss = losses.sum() + self._penalty(steps_done / (steps * self._recipe.epochs))
                self._step(loss, rates, steps_done + 1, steps * self._recipe.epochs)
            total += values * len(labels)
        return (total / count).tolist()

    def _penalty(self, share: float) -> Tensor | float:
        """What the adapter adds to the loss of all lanes when this share of the training is done."""
        adapter, weights = self._program.adapter, self._program.compressed.weights
        penalties = [adapter.penalty(weights, stack.parameters, share) for stack in self.stacks]
        return sum(penalty.sum() for penalty in penalties if penalty is not None)

    def _step(self, loss: Tensor, rates: Sequence[float], t: int, steps: int) -> None:
        """Step number ``t`` of ``steps``; a function, so that the gradients are free before the next forward pass.

        The gradient of a tensor that the loss does not depend on is zero.
        """
        remaining = iter(torch.autograd.grad(loss, self._trained, materialize_grads=True))
        remaining_rates = iter(rates)
        for stack in self.stacks:
            taken = [next(remaining) for _ in stack.trained]
            stack.step(taken, [next(remaining_rates) for _ in stack.lanes], t)
            with torch.no_grad():
                self._program.adapter.after_step(self._program.compressed.weights, stack.parameters, t, steps)

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> tuple[list[float], list[int]]:
        """The mean loss and the number of correct images of each lane, rounded as an exported file would hold it."""
        exact = [stack.parameters for stack in self.stacks]
        rounded = [self._program.rounded(parameters, lanes=1) for parameters in exact]
        unchanged = all(one is other for one, other in zip(exact, rounded, strict=True))
        logits_of = self._logits if unchanged else self._bind(rounded)
        loss = torch.zeros(len(self.lanes), dtype=torch.float64)
        correct = torch.zeros(len(self.lanes), dtype=torch.int64)
        images = min(EVALUATION_IMAGES, EVALUATION_VALUES // self._values_per_image) // len(self.lanes)
        for inputs, labels in rows.batches(max(1, images)):
            check_stop()
            losses, logits = self._losses(logits_of, inputs, labels)
            loss += losses.cpu().double() * len(labels)
            correct += (logits.argmax(2) == labels.to(logits.device)).sum(1).cpu()
        return (loss / len(rows)).tolist(), correct.tolist()


def workers(device: str) -> int:
    """The number of cohorts trained at once: one per thread of the CPU, whose products are mostly small; 1 on a GPU."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


def side_by_side(jobs: Sequence[Callable[[], object]], device: str) -> None:
    """Run jobs in parallel, each with an equal share of torch's threads.

    A job's number of threads depends on the number of jobs alone, so that sums are always added up in the same order.
    The exception of a job is raised after all jobs have ended; errors come before ``StopTraining``.
    """
    threads = torch.get_num_threads()
    at_once = min(workers(device), len(jobs))
    if at_once < 2:
        for job in jobs:
            job()
        return

    def run(job: Callable[[], object]) -> None:
        torch.set_num_threads(max(1, threads // at_once))  # of this thread alone
        job()

    try:
        with ThreadPoolExecutor(at_once) as pool:
            running = [pool.submit(run, job) for job in jobs]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:  # on a failure, or a second Ctrl-C, jobs that wait are cancelled
                pool.shutdown(cancel_futures=True)
        errors = [job.exception() for job in running if not job.cancelled()]
        for error in sorted(filter(None, errors), key=lambda error: isinstance(error, StopTraining)):
            raise error
    finally:
        torch.set_num_threads(threads)
