"""The layers that can be compressed and adapted: their names, and how their weights are read and replaced."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.compress.second_moment import LayerStats
from pipeline.errors import IntegrityError
from pipeline.task.bare_model import computed_tensors

W = TypeVar("W")


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """``(out, in)`` of a layer's weight, for a convolution ``(out, in / groups * kh * kw)``."""
    weight = layer.get_parameter("weight")
    return len(weight), weight[0].numel()


def weight_matrix(layer: nn.Module) -> Tensor:
    """The weight as a matrix ``[out, in]``, detached."""
    return layer.get_parameter("weight").detach().flatten(1)


def group_count(layer: nn.Module) -> int:
    """The number of groups of a convolution; 1 for a Linear layer."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def in_groups(layer: nn.Module, matrix: Tensor) -> Tensor:
    """``[out, in] -> [groups, out / groups, in]``."""
    return matrix.reshape(group_count(layer), -1, matrix.shape[1])


def sound_matrix(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer, ``[out, in]``; an ``IntegrityError`` if it contains NaN or infinite values."""
    matrix = weight_matrix(model.get_submodule(name))
    if not matrix.isfinite().all():
        raise IntegrityError(f"the weight of layer '{name}' holds NaN or infinite values; load sound weights")
    return matrix


@contextmanager
def layer_in_errors(layer: str) -> Iterator[None]:
    """Turn the failure of a decomposition into an ``IntegrityError`` that names the layer."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise IntegrityError(f"the weight of layer '{layer}' cannot be decomposed: {error}; leave it out") from error


def copy_sharing_tensors(model: nn.Module, change: Callable[[str, Tensor], Tensor] | None = None) -> nn.Module:
    """A frozen copy in eval mode whose tensors share the model's memory: cheap, and its modules can be replaced.

    ``change`` gives the copy's tensor from the name and the tensor of each parameter and buffer.
    """

    def kept(_: str, tensor: Tensor) -> Tensor:
        return tensor

    change = change or kept
    # The parameters are new objects, because those of a model in training must keep requires_grad.
    parameters = {
        id(old): nn.Parameter(change(name, old.detach()), requires_grad=False) for name, old in model.named_parameters()
    }
    buffers = {id(buffer): change(name, buffer) for name, buffer in model.named_buffers()}
    return copy.deepcopy(model, computed_tensors(model) | parameters | buffers).eval()


def real_parameter(model: nn.Module) -> Tensor:
    """A parameter of the type and on the device that a model computes with; some others may be complex."""
    return next(parameter for parameter in model.parameters() if parameter.is_floating_point())


def on_device(model: nn.Module, device: str) -> nn.Module:
    """The model itself if it is on ``device``, otherwise a copy there; moving it would move tensors that it shares."""
    here, there = next(chain(model.parameters(), model.buffers())).device, torch.device(device)
    same = here.type == there.type and there.index in (None, here.index)
    return model if same else copy.deepcopy(model).to(there)


def replace_weight(model: nn.Module, name: str, matrix: Tensor) -> None:
    """Let a layer compute with ``matrix [out, in]``; the tensor that it had is not changed."""
    layer = model.get_submodule(name)
    shape = layer.get_parameter("weight").shape
    layer.register_parameter("weight", nn.Parameter(matrix.reshape(shape), requires_grad=False))


def replace_bias(model: nn.Module, name: str, bias: Tensor) -> None:
    """Let a layer add ``bias [out]``; the tensor that it had is not changed."""
    model.get_submodule(name).register_parameter("bias", nn.Parameter(bias, requires_grad=False))


def corrected_bias(layer: nn.Module, matrix: Tensor, stats: Sequence[LayerStats]) -> Tensor:
    """``b + (W - Q) E[x]``, ``[out]``, of an uncompressed layer whose weight becomes ``matrix [out, in]``."""
    before, after = (in_groups(layer, each.double()) for each in (weight_matrix(layer), matrix))
    groups = zip(before, after, stats, strict=True)
    shift = torch.cat([W @ its.reference_mean - Q @ its.mean for W, Q, its in groups])
    bias = layer.get_parameter("bias").detach()
    return (bias.double() + shift).to(bias.dtype)


def each_weight_once(
    model: nn.Module,
    targets: Sequence[str],
    make: Callable[[str, nn.Module], W],
    put: Callable[[str, nn.Module, W], None] = lambda *_: None,
) -> dict[str, W]:
    """What ``make`` gives for each target layer, such as its compressed weight; layers that share a weight share it.

    ``put`` gets it before the next one is made.
    """
    weights, owners = dict[str, W](), dict[nn.Parameter, str]()
    for name in targets:
        layer = model.get_submodule(name)
        owner = owners.setdefault(layer.get_parameter("weight"), name)
        with layer_in_errors(name):
            weights[name] = weights[owner] if owner != name else make(name, layer)
            put(name, layer, weights[name])
    return weights
