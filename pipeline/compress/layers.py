"""The layers that can be compressed and adapted: their names, and views and replacements of their weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.linear import Linear
from torch import Tensor, nn

from pipeline.errors import IntegrityError

# A subclass with a forward of its own may transform its weight first (weight standardisation does), and then
# a low-rank sum on the stored weight is not a low-rank sum on the weight in use.
PLAIN_FORWARDS = (nn.Linear.forward, Linear.forward, nn.Conv2d.forward, Conv2dSame.forward)


def is_plain(module: nn.Module) -> bool:
    """Whether it multiplies with its weight as it is stored."""
    return isinstance(module, nn.Linear | nn.Conv2d) and type(module).forward in PLAIN_FORWARDS


def layer_names(model: nn.Module) -> list[str]:
    """Names of every layer that can be compressed and adapted, in the model's order.

    The output projection of ``nn.MultiheadAttention`` is not among them: attention reads its weight, never calls it;
    ``attention.arranged`` makes layers of it that are called.
    """
    attention = tuple(f"{n}." for n, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    return [
        name
        for name, module in model.named_modules()
        if is_plain(module) and not (attention and name.startswith(attention))
    ]


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """``(out, in)``, for a convolution ``(out, in / groups * kh * kw)``."""
    weight = layer.get_parameter("weight")
    return len(weight), weight[0].numel()


def weight_matrix(layer: nn.Module) -> Tensor:
    """The weight as ``[out, in]``."""
    return layer.get_parameter("weight").detach().flatten(1)


def group_count(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def in_groups(layer: nn.Module, matrix: Tensor) -> Tensor:
    """``[out, in] -> [groups, out / groups, in]``."""
    return matrix.reshape(group_count(layer), -1, matrix.shape[1])


def sound_matrix(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer, ``[out, in]``.

    Raises:
        IntegrityError: It holds NaN or infinite values.
    """
    matrix = weight_matrix(model.get_submodule(name))
    if not matrix.isfinite().all():
        raise IntegrityError(f"the weight of layer '{name}' holds NaN or infinite values; load sound weights")
    return matrix


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Say of a decomposition that fails which layer it was."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise IntegrityError(f"the weight of layer '{layer}' cannot be decomposed: {error}; leave it out") from error


def shared_copy(model: nn.Module) -> nn.Module:
    """A frozen model of new modules over the same memory: cheap, and safe to take apart in another thread."""
    # New parameters, because a model that is still being trained must not lose its requires_grad.
    parameters = {id(own): nn.Parameter(own.detach(), requires_grad=False) for own in model.parameters()}
    return copy.deepcopy(model, parameters | {id(buffer): buffer for buffer in model.buffers()}).eval()


def on_device(model: nn.Module, device: str) -> nn.Module:
    """The model on a device: a copy where that is another one, for moving a model moves the tensors that it shares."""
    here, there = next(chain(model.parameters(), model.buffers())).device, torch.device(device)
    same = here.type == there.type and there.index in (None, here.index)
    return model if same else copy.deepcopy(model).to(there)


def replace_weight(model: nn.Module, name: str, matrix: Tensor) -> None:
    """Let a layer compute with ``matrix [out, in]``; the tensor it had is left untouched."""
    layer = model.get_submodule(name)
    shape = layer.get_parameter("weight").shape
    layer.register_parameter("weight", nn.Parameter(matrix.reshape(shape), requires_grad=False))
