"""Loading a complete set of weights into a model. What does not fit is named: classes, channels, or image size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import IntegrityError
from pipeline.task.models.flat_entries import required
from pipeline.task.models.weight_set import Architecture, Weights


@dataclass(frozen=True)
class Target:
    """What the weights are loaded for."""

    where: str
    """What messages call the origin of the weights."""
    classes: int
    new_head: bool
    """Whether a head with another number of classes keeps the model's random values."""
    outputs: tuple[int, ...] | None
    """Which output of the weights stands for each class; ``None`` for all in their order."""
    sized: Callable[[], set[str]]
    """The names of the entries whose shape depends on the image size."""


def load_weights(architecture: Architecture, weights: Weights, target: Target) -> None:
    """Load a complete set of weights into the architecture's model.

    Raises:
        IntegrityError: An entry has another shape or kind, or is not finite.
    """
    model, where = architecture.model, target.where
    state, own = weights.state(model), model.state_dict()
    headless = sorted(architecture.head().intersection(lacking)) if (lacking := required(weights.missing)) else []
    if headless and not target.new_head:
        others = f" (beside the rest it holds {', '.join(left_out[:3])})" if (left_out := weights.left_out()) else ""
        raise IntegrityError(
            f"{where} holds no head: '{headless[0]}' is missing{others}; give weights with a head, set "
            f'task.model.rename = "order" if it is there under another name, or set task.model.new_head = true and '
            f"train the new head by [task.baseline]"
        )
    if headless:
        state.update({name: own[name] for name in architecture.head()})
    for name, value in state.items():
        if name in own and own[name].is_floating_point() > value.is_floating_point():
            raise IntegrityError(
                f"{where}: '{name}' holds {value.dtype} values, and the model's are {own[name].dtype}; give weights of "
                f"the same kind, from before a quantisation"
            )
    if target.outputs is not None:
        state.update({name: _selected(state[name], target) for name in architecture.head() & state.keys()})
    differing = {name: state[name] for name in own if name in state and state[name].shape != own[name].shape}
    if differing:
        state.update(_resolved(differing, architecture, target))
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise IntegrityError(f"{where}: torch cannot load these weights: {' '.join(str(error).split())}") from None
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise IntegrityError(f"{where}: '{name}' holds NaN or infinite values; give weights that are finite")


def of_other_shape(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    """The names in ``state`` that have another shape in ``other``, or are not there."""
    return {name for name, value in state.items() if name not in other or other[name].shape != value.shape}


def _selected(value: Tensor, target: Target) -> Tensor:
    """The rows of a head's entry that ``outputs`` names."""
    outputs = torch.tensor(target.outputs)
    if int(outputs.max()) >= len(value):
        raise IntegrityError(
            f"task.model.outputs names output {int(outputs.max())}, and {target.where} has {len(value)} outputs; give "
            f"numbers from 0 to {len(value) - 1}"
        )
    return value[outputs]


def _resolved(differing: Mapping[str, Tensor], architecture: Architecture, target: Target) -> dict[str, Tensor]:
    """The model's own values in the place of a head of other classes, if a new head is wanted."""
    where, own = target.where, architecture.model.state_dict()
    head = {
        name: value
        for name, value in differing.items()
        if name in architecture.head() and value.ndim and value.shape[1:] == own[name].shape[1:]
    }
    others = {name: value for name, value in differing.items() if name not in head}
    sized = target.sized() if others else set()
    # What another image size does not explain is named first.
    for name, value in sorted(others.items(), key=lambda entry: entry[0] in sized):
        shapes = f"'{name}' is {list(value.shape)} in the weights and {list(own[name].shape)} in the model"
        if own[name].ndim > 1 and own[name].shape[1] == 3 and _without_inputs(value) == _without_inputs(own[name]):
            raise IntegrityError(
                f"{where}: the weights take images with {value.shape[1]} channel(s), and this source builds models for "
                f"3 (RGB): {shapes}; give weights for RGB images"
            )
        if name not in sized:
            raise IntegrityError(f"{where}: {shapes}; name the architecture and image size that the weights are of")
        raise IntegrityError(
            f"{where}: the weights are of another image size: {shapes}; set task.model.image_size to the side that "
            f"they were trained with"
        )
    for name, value in head.items():
        if not target.new_head:
            raise IntegrityError(
                f"{where}: '{name}' has {len(value)} classes, and the data has {target.classes}; "
                f"{other_classes(len(value), target.classes)}"
            )
    return {name: own[name] for name in head}


def other_classes(known: int, classes: int) -> str:
    """What to do about weights with another number of classes than the data."""
    outputs = "name the output of each class by task.model.outputs = [...], " if known > classes else ""
    return (
        f"give weights for {classes} classes, set task.model.new_head = true and train the new head by "
        f'[task.baseline], {outputs}or keep the {known} outputs by task.metric = "agreement"'
    )


def _without_inputs(weight: Tensor) -> tuple[int, ...]:
    """The shape of a layer's weight ``[out, in, ...]`` without the number of its inputs."""
    return (*weight.shape[:1], -1, *weight.shape[2:])
