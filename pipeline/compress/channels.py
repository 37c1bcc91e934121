"""Removal of output channels from a model, with everything that depends on them, and the same for a bare architecture.

The package torch-pruning traces the dependencies (DepGraph: Fang et al., 2023, arXiv:2301.12900): inputs of the next
layers, batch norms, depthwise convolutions, additions. Its result is verified on a batch: a model without some channels
must give the logits of the whole model in which the weights that read these channels are zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.layers import copy_sharing_tensors, matrix_shape
from pipeline.errors import IntegrityError, SpecError


@dataclass(frozen=True)
class PrunedModel:
    """A model without some of its channels."""

    model: nn.Module  # frozen, in eval mode; tensors that lost nothing share memory with the original model's
    rows: Mapping[str, Tensor]  # the rows that remain, in ascending order, of each layer that lost output channels


@dataclass(frozen=True)
class ChannelGroup:
    """Output channels of one or more target layers that can only be removed together."""

    root: str  # the name of one of the layers
    units: Tensor  # [units, n], the rows of `root` that are removed together, such as those of an attention head
    layers: Mapping[str, Tensor]  # per layer [2, m]: its rows, and the rows of `root` with which they are removed

    def lowest(self, scores: Mapping[str, Tensor], kept: int) -> list[int]:
        """The rows of ``root`` that are removed if the ``kept`` units with the highest scores remain.

        A unit's score is the sum of ``scores [out]`` over its rows in all layers. Of equal units the first remains.
        """
        total = torch.zeros(self.units.numel(), dtype=torch.float64)
        for name, (rows, root_rows) in self.layers.items():
            total.index_add_(0, root_rows, scores[name].double().cpu()[rows])
        ranking = total[self.units].sum(1).argsort(descending=True, stable=True)
        return sorted(self.units[ranking[kept:]].flatten().tolist())


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
    remain, from the name of a layer and its number of units (channels or attention heads).
    """
    trial, images = _perturbed_copy(model), images.double()
    groups = _channel_groups(trial, targets, images)
    lowest = {group.root: group.lowest(scores, kept(group.root, len(group.units))) for group in groups}
    removed = {root: rows for root, rows in lowest.items() if rows}
    if not _is_verified(trial, removed, images):
        verified = dict[str, list[int]]()
        for root, rows in removed.items():
            if _is_verified(trial, {**verified, root: rows}, images):
                verified[root] = rows
        removed = verified
    return _without_rows(model, removed, images.to(next(model.parameters())))


def _perturbed_copy(model: nn.Module) -> nn.Module:
    """A float64 copy with noise on its weights; layers that start at zero would hide errors before them."""
    copy, generator = copy_sharing_tensors(model).double(), torch.Generator().manual_seed(0)
    for parameter in copy.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.data = parameter.data + 0.1 * noise / math.sqrt(parameter[:1].numel())
    return copy


def _channel_groups(model: nn.Module, targets: Sequence[str], images: Tensor) -> list[ChannelGroup]:
    """The groups of all target layers whose channels may be removed."""
    copy = copy_sharing_tensors(model)
    graph, names = _trace(copy, images), {module: name for name, module in copy.named_modules()}
    groups, seen = [], set[str]()
    for name in targets:
        layer = copy.get_submodule(name)
        if name in seen or layer not in graph.module2node:
            continue
        out = matrix_shape(layer)[0]
        dependencies = _dependencies(graph, layer, range(out))
        losing = {names[item.dep.target.module]: item for item in dependencies if _loses_outputs(graph, item)}
        rows = {key: torch.tensor([item.idxs, item.root_idxs]) for key, item in losing.items() if key in targets}
        seen |= rows.keys()
        # A depthwise convolution loses the channels of the layer before it, whether it is a target or not.
        independent = {key for key in losing if not is_depthwise(copy.get_submodule(key))}
        prunable = all(_is_prunable(graph, item, names) for item in dependencies)
        if prunable and independent and independent <= rows.keys():
            groups.append(ChannelGroup(name, _units(copy, name, out), rows))
    return groups


def _is_verified(model: nn.Module, removed: Mapping[str, Sequence[int]], images: Tensor) -> bool:
    """Whether removing these rows gives the same logits as setting the weights that read them to zero."""
    with torch.no_grad():
        expected = _with_zeroed_readers(model, removed, images)(images)
        if not expected.isfinite().all():
            raise IntegrityError("the model gives NaN or infinite logits for an image of noise; load sound weights")
        try:
            logits = _without_rows(model, removed, images).model(images)
        except Exception:  # nothing narrower: each model's forward raises errors of its own for shapes that do not fit
            return False
    return bool((logits - expected).abs().max() <= 1e-6 * expected.abs().max())


def _with_zeroed_readers(model: nn.Module, removed: Mapping[str, Sequence[int]], images: Tensor) -> nn.Module:
    """A copy of the same shapes in which all weights that multiply some layers' rows are zero."""
    copy = copy_sharing_tensors(model)
    graph = _trace(copy, images)
    for root, rows in removed.items():
        for item in _dependencies(graph, copy.get_submodule(root), rows):
            if _loses_inputs(graph, item):
                layer = item.dep.target.module
                weight = layer.weight.detach().clone()
                weight[:, item.idxs] = 0
                layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return copy


def _without_rows(model: nn.Module, removed: Mapping[str, Sequence[int]], images: Tensor) -> PrunedModel:
    """A copy without some rows of some layers, and without everything that depends on them."""
    copy, remaining = copy_sharing_tensors(model), dict[str, Tensor]()
    graph, names = _trace(copy, images), {module: name for name, module in copy.named_modules()}
    for root, rows in removed.items():
        dependencies = _dependencies(graph, copy.get_submodule(root), rows)
        for item in dependencies:
            if _loses_outputs(graph, item):
                mask = torch.ones(len(item.dep.target.module.weight), dtype=torch.bool)
                mask[item.idxs] = False
                remaining[names[item.dep.target.module]] = mask.nonzero().flatten()
        dependencies.prune()
    fit_heads(copy)
    return PrunedModel(copy.requires_grad_(False).eval(), remaining)


def _trace(model: nn.Module, images: Tensor) -> Any:
    """The dependency graph of ``model``; tracing makes the model's parameters trainable."""
    try:
        from torch_pruning import DependencyGraph
    except ImportError as error:
        raise SpecError(
            f"structured pruning needs the package torch-pruning, which is not installed ({error}); install it with: "
            f"pip install 'restora[pruning]'"
        ) from None
    model.requires_grad_(True)
    with torch.enable_grad():
        # The graph marks the model's output only if an operation comes after the last layer; hence the negation.
        try:
            graph = DependencyGraph()  # type: ignore[no-untyped-call]
            return graph.build_dependency(model, [images], output_transform=torch.neg, verbose=False)
        except Exception as error:  # nothing narrower: the package assumes much, and breaks anywhere in its own code
            raise SpecError(
                f"torch-pruning cannot follow the channels of this model ({type(error).__name__}: {error}); choose "
                f"another compression"
            ) from error


def _dependencies(graph: Any, layer: nn.Module, rows: Sequence[int]) -> Any:
    """All that is removed with some rows of a layer: modules, the indices that each loses, and the rows they follow."""
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(rows))


def _loses_outputs(graph: Any, item: Any) -> bool:
    """Whether a dependency removes output channels of a layer."""
    layer = item.dep.target.module
    return isinstance(layer, nn.Linear | nn.Conv2d) and bool(graph.is_out_channel_pruning_fn(item.dep.handler))


def _loses_inputs(graph: Any, item: Any) -> bool:
    """Whether a dependency removes input channels of a layer and no output channels."""
    return isinstance(item.dep.target.module, nn.Linear | nn.Conv2d) and not _loses_outputs(graph, item)


def _is_prunable(graph: Any, item: Any, names: Mapping[nn.Module, str]) -> bool:
    """Whether the module or operation of a dependency can lose channels, and has those that it would lose."""
    module = item.dep.target.module
    if module not in names:
        return not isinstance(module, graph.ops._OutputOp | nn.Parameter)
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
        return False
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return isinstance(module, _BatchNorm | nn.PReLU)
    return bool(max(item.idxs) < (module.weight.shape[1] if _loses_inputs(graph, item) else len(module.weight)))


def _units(model: nn.Module, root: str, out: int) -> Tensor:
    """``[units, n]``, the rows of a layer that are removed together: those of a head for timm's ``qkv``."""
    rows = torch.arange(out)
    for name, module in model.named_modules():
        if isinstance(module, Attention) and root == f"{name}.qkv":
            return rows.view(-1, module.num_heads, module.head_dim).transpose(0, 1).flatten(1)
    return rows[:, None]


def is_depthwise(layer: nn.Module) -> bool:
    """Whether it is a convolution with one filter per channel."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def fit_heads(model: nn.Module) -> None:
    """Set the number of heads of timm's attention to what its layers now hold, in place."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.attn_dim = module.proj.in_features
            module.num_heads = module.attn_dim // module.head_dim


def fit_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Shrink layers, batch norms, PReLUs and attention to the shapes of ``tensors``, in place; values are lost.

    ``tensors`` are named as in a ``state_dict``; a packed weight is ``fc1.weight.dense [out, in * kh * kw]``.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | _BatchNorm | nn.PReLU):
            continue
        # Only the first tensor decides the number of channels: another length in the file is then reported on loading.
        channels = None
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            shape = _fitted_shape(f"{name}.{key}".removeprefix("."), tensor, tensors, channels)
            channels = shape[0] if channels is None else channels
            if shape == tensor.shape:
                continue
            if isinstance(tensor, nn.Parameter):
                tensor.data = tensor.new_empty(shape)
            else:  # models that share tensors share the buffer itself
                module.register_buffer(key, tensor.new_empty(shape))
        _fit_attributes(module)
    fit_heads(model)


def _fitted_shape(name: str, tensor: Tensor, tensors: Mapping[str, Tensor], channels: int | None) -> torch.Size:
    """``[channels]`` for one axis; otherwise the shape in the file if it is no larger and has as many axes."""
    if channels is not None and tensor.ndim == 1:
        return torch.Size([channels])
    stored, packed = tensors.get(name), tensors.get(f"{name}.dense")
    shape = tensor.shape if stored is None else stored.shape
    if stored is None and packed is not None and packed.ndim == 2:
        kernel = tensor.shape[2:]
        shape = torch.Size([len(packed), packed.shape[1] // kernel.numel(), *kernel])
    fits = len(shape) == tensor.ndim and all(now <= before for now, before in zip(shape, tensor.shape, strict=True))
    return shape if fits else tensor.shape


def _fit_attributes(module: nn.Module) -> None:
    """Set the sizes that a module keeps as attributes to those of its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        if is_depthwise(module):
            module.groups = len(module.weight)
        module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, _BatchNorm):
        for tensor in (module.weight, module.running_mean):
            module.num_features = module.num_features if tensor is None else len(tensor)
