"""Removal of output channels from a model, with everything that depends on them.

Each removal is verified on a batch: a model without some channels must give the logits of the whole model in which the
weights that read these channels are zero. So a width that is written in the model's code, or held in a buffer, leaves a
layer whole and never changes what it computes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.compress.channel_groups import Channels, Lost
from pipeline.compress.channel_shapes import fit_attributes, fit_heads
from pipeline.compress.layers import copy_sharing_tensors, weight_matrix
from pipeline.errors import IntegrityError

BY_CODE = "the model's code or a buffer depends on how many channels it has, or mixes them"
"""Why a layer keeps channels that torch-pruning would remove: the model without them computes something else."""


@dataclass(frozen=True)
class PrunedModel:
    """A model without some of its channels."""

    model: nn.Module  # frozen, in eval mode; tensors that lost nothing share memory with the original model's
    rows: Mapping[str, Tensor]  # the rows that remain, in ascending order, of each layer that lost output channels
    whole: Mapping[str, str]  # why each other target layer keeps all its output channels


def prune_channels(
    model: nn.Module,
    targets: Sequence[str],
    images: Tensor,
    scores: Mapping[str, Tensor],
    kept: Callable[[str, int], int],
) -> PrunedModel:
    """A copy of a model in which the target layers lose their output channels of lowest score.

    A layer stays whole if its channels cannot be removed: the classifier, a layer on the residual stream of a
    transformer, one whose channels are added to those of a layer that is no target, and one for which the dependencies
    that torch-pruning traced prove wrong.

    ``images`` is a batch of one; noise reveals more than a picture. ``scores`` are ``[out]``. ``kept`` says how many
    remain, from the name of a layer and its number of units: channels, attention heads, or sets of channels that the
    model splits off and joins again.
    """
    trial, images = _perturbed_copy(model), images.double()
    channels = Channels(trial, images)
    groups, whole = channels.groups(targets)
    lowest = {group.root: group.lowest(scores, kept(group.root, group.count)) for group in groups}
    wanted = {root: rows for root, rows in lowest.items() if rows}
    lost = channels.lost(_verified(trial, channels, wanted, images))
    for group in groups:
        said = BY_CODE if lowest[group.root] else f"the share to keep of {group.count} rounds up to all"
        whole |= dict.fromkeys(group.layers, said)
    layers = (name for name, axis in lost if axis == 0 and isinstance(model.get_submodule(name), nn.Linear | nn.Conv2d))
    rows = {name: _remaining(len(weight_matrix(model.get_submodule(name))), lost[name, 0]) for name in layers}
    without = _without(model, lost).requires_grad_(False)
    return PrunedModel(without, rows, {name: whole[name] for name in targets if name not in rows})


def _remaining(count: int, lost: set[int]) -> Tensor:
    return torch.tensor([index for index in range(count) if index not in lost])


def _verified(
    model: nn.Module, channels: Channels, removed: Mapping[str, list[int]], images: Tensor
) -> dict[str, list[int]]:
    """Those of the removals that can be verified together; parts that fail are halved to find what is wrong."""
    verified, parts = dict[str, list[int]](), [dict(removed)]
    while parts:
        part = parts.pop()
        if _is_verified(model, channels.lost(verified | part), images):
            verified |= part
        elif len(part) > 1:
            roots = list(part)
            halves = roots[len(roots) // 2 :], roots[: len(roots) // 2]
            parts += [{root: part[root] for root in half} for half in halves]
    return verified


def _perturbed_copy(model: nn.Module) -> nn.Module:
    """A float64 copy with noise on its weights; layers that start at zero would hide errors before them."""
    copy, generator = copy_sharing_tensors(model).double(), torch.Generator().manual_seed(0)
    for parameter in copy.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.data = parameter.data + 0.1 * noise / math.sqrt(parameter[:1].numel())
    return copy


@torch.no_grad()
def _is_verified(model: nn.Module, lost: Lost, images: Tensor) -> bool:
    """Whether the model without these channels gives the logits of that in which the weights that read them are 0."""
    expected = _with_zeroed_readers(model, lost)(images)
    if not expected.isfinite().all():
        raise IntegrityError("the model gives NaN or infinite logits for an image of noise; load sound weights")
    try:
        logits = _without(model, lost)(images)
    except Exception:  # nothing narrower: each model's forward raises errors of its own for shapes that do not fit
        return False
    return logits.shape == expected.shape and bool((logits - expected).abs().max() <= 1e-6 * expected.abs().max())


def _with_zeroed_readers(model: nn.Module, lost: Lost) -> nn.Module:
    """A copy of the same shapes in which all weights that multiply lost channels are zero."""
    copy = copy_sharing_tensors(model)
    for (name, axis), indices in lost.items():
        if axis == 1:
            layer = copy.get_submodule(name)
            weight = layer.get_parameter("weight").detach().clone()
            weight[:, sorted(indices)] = 0
            layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return copy


def _without(model: nn.Module, lost: Lost) -> nn.Module:
    """A copy without the lost channels."""
    copy = copy_sharing_tensors(model)
    for (name, axis), indices in lost.items():
        module = copy.get_submodule(name)
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.ndim <= axis or (isinstance(module, nn.PReLU) and len(tensor) == 1):
                continue
            left = tensor.detach().index_select(axis, _remaining(tensor.shape[axis], indices).to(tensor.device))
            if isinstance(tensor, nn.Parameter):
                module.register_parameter(key, nn.Parameter(left, requires_grad=False))
            else:
                module.register_buffer(key, left)
        fit_attributes(module)
    fit_heads(copy)
    return copy
