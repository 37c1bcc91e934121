"""The training of a baseline: the uncompressed model of a study file whose weights are not simply loaded."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.task_spec import BaselineSpec, TorchOptimizer
from pipeline.errors import SpecError
from pipeline.guard import check_stop
from pipeline.seeds import derive
from pipeline.task.augmentations.contract import Augmenter, make_augmenter
from pipeline.task.inspection import main_logits
from pipeline.task.opened_task import OpenedTask
from pipeline.task.parts import Part
from pipeline.task.tensor_cache import restore_state, write_tensors
from pipeline.task.training_batches import count_batches, refuse_single_images, training_batches
from pipeline.wording import counted

logger = logging.getLogger(__name__)

TORCH_OPTIMIZERS: dict[TorchOptimizer, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
EVALUATED = 256
"""Images per pass when an epoch is judged."""


def baseline_epochs(opened: OpenedTask, device: str | torch.device = "cpu") -> Iterator[nn.Module]:
    """Train and cache the baseline of a task, in train mode: dropout is on and batch norm learns its statistics.

    Yields the model before the first epoch and after each; the caller may read it, and must not change it. ``prepare``
    finds the baseline after the last epoch: its weights then, or those of its best epoch. It uses its own random
    generators, so it neither depends on the global ones nor changes them.
    """
    model, part, spec = opened.model, opened.parts["train"], _baseline(opened)
    file, device = opened.baseline_file, torch.device(device)  # the file is named by the model as it is now
    logger.info(f"baseline: training {counted(spec.epochs, 'epoch')} on {counted(len(part), 'image')}")
    seed, augmenter, best = opened.spec.split.seed, _augmenter(opened), _Best()
    order, steps = torch.Generator().manual_seed(seed), count_batches(len(part), spec.batch_size)
    with _training(opened, model, device) as optimizer:
        yield model
        for epoch in range(1, spec.epochs + 1):
            total, count = torch.zeros((), device=device), 0
            shuffled = torch.randperm(len(part), generator=order)
            epoch_seed = derive(seed, "augmentation", epoch)
            for step, (read, labels) in enumerate(training_batches(part, spec.batch_size, shuffled)):
                check_stop()
                share = spec.schedule.share((epoch - 1) * steps + step, spec.epochs * steps)
                optimizer.param_groups[0]["lr"] = spec.lr * share
                optimizer.zero_grad()
                images = read.to(device)
                images = augmenter(images, derive(epoch_seed, step)) if augmenter else images
                loss = _loss(model, images, labels.to(device))
                optimizer.step()
                total += loss * len(images)
                count += len(images)
            mean = float(total) / count
            if not mean < float("inf"):
                raise SpecError(
                    f"the baseline's loss is {mean} in epoch {epoch}; lower task.baseline.lr = {spec.lr}, or choose "
                    f"another optimizer"
                )
            judged = ""
            if spec.keep == "best":
                correct = _count_correct(model, opened.parts["val"], device)
                best.keep(epoch, correct, model)
                judged = f", validation accuracy {correct / len(opened.parts['val']):.4f}"
            logger.info(f"baseline: epoch {epoch}/{spec.epochs}, loss {mean:.4f}{judged}")
            yield model
    if spec.keep == "best":
        logger.info(f"baseline: epoch {best.epoch} is kept, the best on the validation part")
        restore_state(model, best.state)
    model.to("cpu").eval()
    write_tensors(file, model.state_dict())


@dataclass
class _Best:
    """The epoch with the most correct images so far, the first of equals, and the model's state after it."""

    epoch: int = 0
    correct: int = -1
    state: dict[str, Any] = field(default_factory=dict)

    def keep(self, epoch: int, correct: int, model: nn.Module) -> None:
        if correct > self.correct:
            self.epoch, self.correct, self.state = epoch, correct, copy.deepcopy(model.state_dict())


def try_baseline(opened: OpenedTask, device: str | torch.device = "cpu") -> str:
    """Try the gradients of one batch of noise in train mode; says in words what a run will do.

    Raises:
        SpecError: The images cannot be augmented, or the step fails; the message names the batch size, the image size
            and the reason.
    """
    if opened.spec.baseline is None:
        return "the model has its weights"
    if opened.baseline_file.exists():
        return f"trained before, kept in {opened.baseline_file}"
    _augmenter(opened)
    spec, labels, device = _baseline(opened), opened.parts["train"].labels, torch.device(device)
    count = min(spec.batch_size, len(labels))
    images = torch.randn(count, *opened.input_shape, generator=torch.Generator().manual_seed(0))
    # Shared parameters take no memory twice; buffers are copied, because batch norms update them.
    shared = {id(parameter): nn.Parameter(parameter.detach()) for parameter in opened.model.parameters()}
    model = copy.deepcopy(opened.model, shared)
    try:
        with _training(opened, model, device):
            _loss(model, images.to(device), labels[:count].to(device))
    except Exception as error:  # each architecture raises errors of its own
        size = " x ".join(map(str, opened.input_shape[1:]))
        raise SpecError(
            f"the baseline cannot be trained: a step on {count} images of {size} fails ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); change task.baseline.batch_size = {spec.batch_size}, "
            f"task.model.image_size or the architecture"
        ) from error
    return f"trained first: {counted(spec.epochs, 'epoch')} on {counted(len(labels), 'image')}; one batch tried"


def _baseline(opened: OpenedTask) -> BaselineSpec:
    spec = opened.spec.baseline
    if spec is None:
        raise ValueError("the task has no [task.baseline] to train")
    refuse_single_images(opened.model, len(opened.parts["train"]), spec.batch_size, "task.baseline.batch_size")
    return spec


def _augmenter(opened: OpenedTask) -> Augmenter | None:
    chosen = _baseline(opened).augmentation
    return make_augmenter(chosen, opened.preprocessing.facts, opened.input_shape) if chosen else None


@contextmanager
def _training(opened: OpenedTask, model: nn.Module, device: torch.device) -> Iterator[torch.optim.Optimizer]:
    """Put a model in train mode on a device, with its optimizer; the global random generators stay as they are."""
    spec = _baseline(opened)
    decay = {} if spec.weight_decay is None else {"weight_decay": spec.weight_decay}
    model.to(device).train().requires_grad_(True)
    # All GPUs, because torch.manual_seed seeds all of them.
    with torch.enable_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(opened.spec.split.seed)
        yield TORCH_OPTIMIZERS[spec.optimizer](model.parameters(), lr=spec.lr, **decay)


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of a batch; its gradients are added to those of the parameters."""
    loss = F.cross_entropy(main_logits(model(images)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@torch.no_grad()
def _count_correct(model: nn.Module, part: Part, device: torch.device) -> int:
    """The number of images whose class a model in train mode ranks first in eval mode."""
    model.eval()
    correct = 0
    for images, labels in part.batches(EVALUATED):
        check_stop()
        correct += int((main_logits(model(images.to(device))).argmax(1).cpu() == labels).sum())
    model.train()
    return correct
