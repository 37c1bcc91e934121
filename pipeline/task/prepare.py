"""A ``Task`` from a study file's ``[task]``, its trained baseline, and the bare architecture from its description."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.registry import MODELS
from pipeline.config.task_spec import TaskSpec, TorchOptimizer
from pipeline.errors import RestoraError, SpecError
from pipeline.guard import check_stop
from pipeline.hashes import fingerprint, hash_weights
from pipeline.paths import ANSWERS, BASELINES
from pipeline.task.contract import Task, check_parts
from pipeline.task.data.contract import Items
from pipeline.task.models.contract import Preprocessing
from pipeline.task.parts import DatasetPart, Part
from pipeline.task.split import split
from pipeline.task.tensor_cache import read_tensors, write_tensors

logger = logging.getLogger(__name__)

TORCH_OPTIMIZERS: dict[TorchOptimizer, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@dataclass
class _Opened:
    """A task before its baseline is trained."""

    spec: TaskSpec
    model: nn.Module
    parts: dict[str, Part]
    description: dict[str, Any]
    hashes: dict[str, str]

    def baseline_file(self) -> Path:
        """The file of the trained baseline, by the hash of everything that it depends on."""
        key = fingerprint({**self.description, **self.hashes, "initial": hash_weights(self.model)})
        return BASELINES / f"{key}.safetensors"


def prepare(spec: TaskSpec, *, device: str | torch.device = "cpu", train_baseline: bool = True) -> Task:
    """Open the data, split it, load the model, and train its baseline if the study file asks for one.

    Args:
        spec: The study file's ``[task]``.
        device: The device to train a baseline on; the task itself is on the CPU.
        train_baseline: Whether to train a baseline that is not cached. If False it stays untrained: ``task.trained``
            is False, and ``hashes`` has no ``weights``.

    Raises:
        SpecError: The model does not fit the data, or has neither weights nor a baseline to train.
        IntegrityError: Data or weights are not there, damaged, or unusable.
    """
    opened = _open(spec)
    model, description, hashes = opened.model, opened.description, opened.hashes
    if spec.baseline is not None:
        state = read_tensors(opened.baseline_file())
        if state is not None:
            model.load_state_dict(state)
        elif train_baseline:
            for _ in _train(opened, torch.device(device)):
                pass
        description["trained"] = state is not None or train_baseline
    if not spec.metric.uses_labels:
        hashes |= {"weights": hash_weights(model), "split": fingerprint([hashes["split"], spec.metric.name])}
    key, model = fingerprint({**description, **hashes}), model.eval()
    parts = {
        name: spec.metric.relabelled(part, model, device, ANSWERS / f"{fingerprint([key, name])}.safetensors")
        for name, part in opened.parts.items()
    }
    return Task(model, **parts, metric=spec.metric.name, description=description, hashes=hashes)


def baseline_epochs(spec: TaskSpec, device: str | torch.device = "cpu") -> Iterator[nn.Module]:
    """Train and cache the baseline of a task; yields the model before the first epoch and after each.

    ``prepare`` finds the baseline after the last epoch. The caller may read the yielded model, and must not change it.
    """
    yield from _train(_open(spec), torch.device(device))


def _train(opened: _Opened, device: torch.device) -> Iterator[nn.Module]:
    """Train and cache a baseline in train mode: dropout is on and batch norm learns its statistics.

    It uses its own random generators, so it neither depends on the global ones nor changes them.
    """
    model, part, spec, seed = opened.model, opened.parts["train"], opened.spec.baseline, opened.spec.split.seed
    if spec is None:
        raise ValueError("the task has no [task.baseline] to train")
    file = opened.baseline_file()
    logger.info(f"baseline: training {spec.epochs} epochs on {len(part)} images")
    order = torch.Generator().manual_seed(seed)
    model.to(device).train().requires_grad_(True)
    optimizer = TORCH_OPTIMIZERS[spec.optimizer](model.parameters(), lr=spec.lr)
    # All GPUs, because torch.manual_seed seeds all of them.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield model
        for epoch in range(1, spec.epochs + 1):
            total, count = torch.zeros((), device=device), 0
            for images, labels in part.batches(spec.batch_size, torch.randperm(len(part), generator=order)):
                check_stop()
                if len(images) == 1 and count:
                    # Batch norm has no variance over a last batch of one image.
                    continue
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach() * len(images)
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


def _open(spec: TaskSpec) -> _Opened:
    if not spec.metric.uses_labels and not spec.model.pretrained:
        raise SpecError(
            f"task.metric = \"{spec.metric.name}\" needs a trained model, and task.model '{spec.model.name}' has none: "
            f"give it hub, weights or a checkpoint"
        )
    if spec.baseline is None and not spec.model.pretrained:
        raise SpecError(
            f"task.model '{spec.model.name}' has no weights, and there is no [task.baseline] to train them; "
            f"add one, e.g. epochs = 10"
        )
    if spec.baseline is None and getattr(spec.model, "new_head", False):
        raise SpecError(
            "task.model.new_head = true leaves the head random, and there is no [task.baseline] to train it; add one, "
            "e.g. epochs = 10"
        )
    images = spec.data.open()
    divided = split(images.train.labels, spec.split, test=images.test is None)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the generators of the GPUs too.
        torch.default_generator.manual_seed(spec.split.seed)
        classes = len(images.classes) if spec.metric.uses_labels else spec.model.pretrained_classes()
        model = spec.model.load(classes)
    preprocessing = spec.model.preprocessing(model)
    parts: dict[str, Part] = {
        name: DatasetPart(_Selected(items, indices, preprocessing), items.labels[indices], threads=os.cpu_count() or 1)
        for name, (items, indices) in divided.items(images).items()
    }
    check_parts(parts, classes if spec.metric.uses_labels else None)
    hashes = {"data": images.fingerprint(), "split": divided.hash()}
    description: dict[str, Any] = {
        "model": spec.model.model_dump(mode="json"),
        "data": spec.data.model_dump(mode="json", exclude={"root", "download"}),
        "split": spec.split.model_dump(mode="json"),
        "baseline": spec.baseline and spec.baseline.model_dump(mode="json"),
        "classes": classes,
        "preprocessing": preprocessing.facts,
        "parts": {name: len(part) for name, part in parts.items()},
        "trained": True,
    }
    return _Opened(spec, model, parts, description, hashes)


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


@dataclass
class _Selected:
    """Preprocessed images of the items at some indices, as a map-style data set."""

    items: Items
    indices: Tensor
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        image, label = self.items[int(self.indices[index])]
        return self.preprocessing(image), label
