"""A ``Task`` from a study file's ``[task]``, its trained baseline, and the bare architecture from its description."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.registry import MODELS
from pipeline.config.task_spec import BaselineSpec, TaskSpec, TorchOptimizer
from pipeline.errors import RestoraError, SpecError
from pipeline.guard import check_stop
from pipeline.hashes import fingerprint, hash_weights
from pipeline.paths import ANSWERS
from pipeline.task.contract import Task
from pipeline.task.inspection import main_logits
from pipeline.task.opened_task import OpenedTask
from pipeline.task.tensor_cache import read_tensors, restore_state, write_tensors
from pipeline.task.training_batches import refuse_single_images, training_batches
from pipeline.wording import counted

logger = logging.getLogger(__name__)

TORCH_OPTIMIZERS: dict[TorchOptimizer, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def prepare(spec: TaskSpec | OpenedTask, *, device: str | torch.device = "cpu", train_baseline: bool = True) -> Task:
    """Open the data, split it, load the model, and train its baseline if the study file asks for one.

    Args:
        spec: The study file's ``[task]``.
        device: The device to train a baseline on; the task itself is on the CPU.
        train_baseline: Whether to train a baseline that is not cached. If False it stays untrained: ``task.trained``
            is False, and ``hashes`` has no ``weights``.

    Raises:
        SpecError: The model does not fit the data, cannot take images of its size, or has neither weights nor a
            baseline to train.
        IntegrityError: Data or weights are not there, damaged, or unusable.
    """
    opened = spec if isinstance(spec, OpenedTask) else OpenedTask(spec)
    spec, model, _ = opened.spec, opened.model, opened.input_shape
    description, hashes = dict(opened.description), dict(opened.hashes)
    if spec.baseline is not None:
        state = read_tensors(opened.baseline_file)
        if state is not None:
            restore_state(model, state)
        elif train_baseline:
            for _ in baseline_epochs(opened, device):
                pass
        description["trained"] = state is not None or train_baseline
    if not spec.metric.uses_labels:
        hashes |= {"weights": hash_weights(model), "split": fingerprint([hashes["split"], spec.metric.name])}
    key, model = fingerprint({**description, **hashes}), model.eval()
    parts = {
        name: spec.metric.relabelled(part, model, device, ANSWERS / f"{fingerprint([key, name])}.safetensors")
        for name, part in opened.parts.items()
    }
    return Task(model, **parts, metric=spec.metric.name, description=description | opened.read, hashes=hashes)


def baseline_epochs(opened: OpenedTask, device: str | torch.device = "cpu") -> Iterator[nn.Module]:
    """Train and cache the baseline of a task, in train mode: dropout is on and batch norm learns its statistics.

    Yields the model before the first epoch and after each; the caller may read it, and must not change it. ``prepare``
    finds the baseline after the last epoch. It uses its own random generators, so it neither depends on the global
    ones nor changes them.
    """
    model, part, spec = opened.model, opened.parts["train"], _baseline(opened)
    file, device = opened.baseline_file, torch.device(device)  # the file is named by the model as it is now
    logger.info(f"baseline: training {counted(spec.epochs, 'epoch')} on {counted(len(part), 'image')}")
    order = torch.Generator().manual_seed(opened.spec.split.seed)
    with _training(opened, model, device) as optimizer:
        yield model
        for epoch in range(1, spec.epochs + 1):
            total, count = torch.zeros((), device=device), 0
            shuffled = torch.randperm(len(part), generator=order)
            for images, labels in training_batches(part, spec.batch_size, shuffled):
                check_stop()
                optimizer.zero_grad()
                loss = _loss(model, images.to(device), labels.to(device))
                optimizer.step()
                total += loss * len(images)
                count += len(images)
            mean = float(total) / count
            if not mean < float("inf"):
                raise SpecError(
                    f"the baseline's loss is {mean} in epoch {epoch}; lower task.baseline.lr = {spec.lr}, or choose "
                    f"another optimizer"
                )
            logger.info(f"baseline: epoch {epoch}/{spec.epochs}, loss {mean:.4f}")
            yield model
    model.to("cpu").eval()
    write_tensors(file, model.state_dict())


def try_baseline(opened: OpenedTask, device: str | torch.device = "cpu") -> str:
    """Try the gradients of one batch of noise in train mode; says in words what a run will do.

    Raises:
        SpecError: The step fails; the message names the batch size, the image size and the reason.
    """
    if opened.spec.baseline is None:
        return "the model has its weights"
    if opened.baseline_file.exists():
        return f"trained before, kept in {opened.baseline_file}"
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


@contextmanager
def _training(opened: OpenedTask, model: nn.Module, device: torch.device) -> Iterator[torch.optim.Optimizer]:
    """Put a model in train mode on a device, with its optimizer; the global random generators stay as they are."""
    spec = _baseline(opened)
    model.to(device).train().requires_grad_(True)
    # All GPUs, because torch.manual_seed seeds all of them.
    with torch.enable_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(opened.spec.split.seed)
        yield TORCH_OPTIMIZERS[spec.optimizer](model.parameters(), lr=spec.lr)


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of a batch; its gradients are added to those of the parameters."""
    loss = F.cross_entropy(main_logits(model(images)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def rebuild(description: Mapping[str, Any]) -> nn.Module:
    """Build the bare architecture of a task, with random weights, from ``Task.description``. Reads no data, no network.

    Raises:
        RestoraError: The description is of a user's own module, which only the user can build.
        SpecError: The description names a model source or an option that does not exist here.
    """
    table = description.get("model")
    if not isinstance(table, Mapping):
        raise RestoraError(
            "this task's model did not come from a study file, so it cannot be built from its description; give the "
            "module as model="
        )
    try:
        source = MODELS.parse(dict(table))
    except ValueError as error:
        raise SpecError(f"the description's model {dict(table)} cannot be built here: {error}") from None
    model: nn.Module = source.build(description["classes"])
    return model.eval()
