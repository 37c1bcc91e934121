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

from pipeline.compress.channel_groups import channel_groups, dependencies, loses_inputs, loses_outputs, trace
from pipeline.compress.channel_shapes import fit_heads
from pipeline.compress.layers import copy_sharing_tensors
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
    groups, whole = channel_groups(trial, targets, images)
    lowest = {group.root: group.lowest(scores, kept(group.root, group.count)) for group in groups}
    removed = _verified(trial, {root: rows for root, rows in lowest.items() if rows}, images)
    for group in groups:
        said = BY_CODE if lowest[group.root] else f"the share to keep of {group.count} rounds up to all"
        whole |= dict.fromkeys(group.layers, said)
    pruned, remaining = _without_rows(model, removed, images.to(next(model.parameters())))
    return PrunedModel(pruned, remaining, {name: whole[name] for name in targets if name not in remaining})


def _verified(model: nn.Module, removed: Mapping[str, list[int]], images: Tensor) -> dict[str, list[int]]:
    """Those of the removals that can be verified together; parts that fail are halved to find what is wrong."""
    verified, parts = dict[str, list[int]](), [dict(removed)]
    while parts:
        part = parts.pop()
        if _is_verified(model, verified | part, images):
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


def _is_verified(model: nn.Module, removed: Mapping[str, Sequence[int]], images: Tensor) -> bool:
    """Whether removing these rows gives the same logits as setting the weights that read them to zero."""
    with torch.no_grad():
        expected = _with_zeroed_readers(model, removed, images)(images)
        if not expected.isfinite().all():
            raise IntegrityError("the model gives NaN or infinite logits for an image of noise; load sound weights")
        try:
            logits = _without_rows(model, removed, images)[0](images)
        except Exception:  # nothing narrower: each model's forward raises errors of its own for shapes that do not fit
            return False
    same = logits.shape == expected.shape
    return same and bool((logits - expected).abs().max() <= 1e-6 * expected.abs().max())


def _with_zeroed_readers(model: nn.Module, removed: Mapping[str, Sequence[int]], images: Tensor) -> nn.Module:
    """A copy of the same shapes in which all weights that multiply some layers' rows are zero."""
    copy = copy_sharing_tensors(model)
    graph = trace(copy, images)
    for root, rows in removed.items():
        for item in dependencies(graph, copy.get_submodule(root), rows):
            if loses_inputs(graph, item):
                layer = item.dep.target.module
                weight = layer.weight.detach().clone()
                weight[:, item.idxs] = 0
                layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return copy


def _without_rows(
    model: nn.Module, removed: Mapping[str, Sequence[int]], images: Tensor
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A frozen copy without some rows of some layers and everything that depends on them, and the rows that remain.

    The latter are those of each layer that lost rows.
    """
    copy, remaining = copy_sharing_tensors(model), dict[str, Tensor]()
    graph, names = trace(copy, images), {module: name for name, module in copy.named_modules()}
    for root, rows in removed.items():
        group = dependencies(graph, copy.get_submodule(root), rows)
        for item in group:
            if loses_outputs(graph, item):
                name, out = names[item.dep.target.module], len(item.dep.target.module.weight)
                left = torch.tensor(sorted(set(range(out)) - set(item.idxs)))
                remaining[name] = remaining[name][left] if name in remaining else left
        group.prune()
    fit_heads(copy)
    return copy.requires_grad_(False).eval(), remaining
