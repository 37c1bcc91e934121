"""The layers that can be compressed and adapted: finding them by pattern, viewing and replacing their weights."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import chain

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.linear import Linear
from torch import Tensor, nn

from pipeline.errors import IntegrityError, SpecError
from pipeline.registry import nearest

# A subclass with a forward of its own may transform its weight first (weight standardisation does), and then
# a low-rank sum on the stored weight is not a low-rank sum on the weight in use.
PLAIN_FORWARDS = (nn.Linear.forward, Linear.forward, nn.Conv2d.forward, Conv2dSame.forward)


def layer_names(model: nn.Module) -> list[str]:
    """Names of every layer that can be compressed and adapted, in the model's order.

    The output projection of ``nn.MultiheadAttention`` is not among them: attention reads its weight, never calls it.
    """
    attention = tuple(f"{n}." for n, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and type(module).forward in PLAIN_FORWARDS
        and not (attention and name.startswith(attention))
    ]


def find_targets(model: nn.Module, patterns: Sequence[str], option: str = "targets") -> list[str]:
    """Names of the layers that match any of the glob ``patterns`` of an ``option``, in the model's order.

    Raises:
        SpecError: A pattern matches no layer, or only such as cannot be adapted.
    """
    names = layer_names(model)
    others = [name for name, _ in model.named_modules() if name and name not in names]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            refused = [name for name in others if fnmatchcase(name, pattern)]
            if refused:
                kind = type(model.get_submodule(refused[0])).__name__
                reason = f"matches '{refused[0]}', a {kind}, which cannot be adapted; only Linear and Conv2d layers can"
            else:
                reason = f"matches no layer{nearest(pattern, names)}"
            raise SpecError(f"{option}: '{pattern}' {reason}; layers: {_shortened(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])}, ... {names[-1]} ({len(names)} in all)"


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """``(out, in)``, for a convolution ``(out, in / groups * kh * kw)``."""
    weight = layer.get_parameter("weight")
    return len(weight), weight[0].numel()


def weight_matrix(layer: nn.Module) -> Tensor:
    """The weight as ``[out, in]``."""
    return layer.get_parameter("weight").detach().flatten(1)


def group_count(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def weight_groups(layer: nn.Module) -> Tensor:
    """The weight as ``[groups, out / groups, in]``."""
    matrix = weight_matrix(layer)
    return matrix.reshape(group_count(layer), -1, matrix.shape[1])


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
