"""A ``Task`` from a study file's ``[task]``, and the bare architecture from its description."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipeline.config.registry import MODELS
from pipeline.config.task_spec import TaskSpec
from pipeline.errors import RestoraError, SpecError
from pipeline.hashes import fingerprint, hash_weights
from pipeline.paths import ANSWERS
from pipeline.task.baseline import baseline_epochs
from pipeline.task.contract import Task
from pipeline.task.opened_task import OpenedTask
from pipeline.task.tensor_cache import read_tensors, restore_state


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
