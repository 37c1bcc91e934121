"""Channels that leave a model for good, with everything that depends on them.

The package torch-pruning follows them through a model (DepGraph: Fang et al., 2023, arXiv:2301.12900): into the inputs
of the next layers, batch norms, depthwise convolutions and across additions. What it says is not believed but tried: a
model that has lost channels must give what the whole one gives once no layer listens to them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.layers import matrix_shape, shared_copy
from pipeline.errors import SpecError


@dataclass(frozen=True)
class Thinned:
    """A model that has lost channels.

    Args:
        model: Frozen, in eval mode; what it kept whole lies in the memory of the model it was made from.
        rows: Which rows are left of each target that lost some, ascending.
    """

    model: nn.Module
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class Tied:
    """Output channels of target layers that can only leave together.

    Args:
        root: One of these layers.
        units: ``[units, n]``, the rows of ``root`` that leave at once: one, or all of an attention head.
        layers: By layer, its rows and the rows of ``root`` that they are tied to, ``[2, m]``.
    """

    root: str
    units: Tensor
    layers: Mapping[str, Tensor]

    def lowest(self, scores: Mapping[str, Tensor], left: int) -> list[int]:
        """Rows of ``root`` that leave where the ``left`` units of largest score stay, a tie to the first.

        Scores of rows are summed over the tied layers, and over the rows of a unit.
        """
        total = torch.zeros(self.units.numel(), dtype=torch.float64)
        for name, (own, root) in self.layers.items():
            total.index_add_(0, root, scores[name].double().cpu()[own])
        ranking = total[self.units].sum(1).argsort(descending=True, stable=True)
        return sorted(self.units[ranking[left:]].flatten().tolist())


def thin(
    model: nn.Module,
    targets: Sequence[str],
    images: Tensor,
    scores: Mapping[str, Tensor],
    left: Callable[[str, int], int],
) -> Thinned:
    """Take the output channels of lowest score out of the target layers; the model given stays as it is.

    A layer stays whole whose channels cannot leave: the classifier, one on the residual stream of a transformer, one
    that is tied with layers that are no targets, and one whose removal, tried, gives other logits than the same
    channels unheard.

    Args:
        model: In any mode.
        targets: Names of Linear and Conv2d layers.
        images: A batch of one, on the device of the model.
        scores: Of each target's rows, ``[out]``.
        left: From the name of a layer and its number of units (channels, or attention heads) to how many stay.

    Raises:
        SpecError: The package torch-pruning is not installed, or cannot follow the channels of this model.
    """
    drop = {tied.root: tied.lowest(scores, left(tied.root, len(tied.units))) for tied in _tied(model, targets, images)}
    drop = {root: rows for root, rows in drop.items() if rows}
    thinned = _tried(model, targets, drop, images)
    if thinned is not None:
        return thinned
    sound, best = dict[str, list[int]](), Thinned(shared_copy(model), {})
    for root, rows in drop.items():
        thinned = _tried(model, targets, {**sound, root: rows}, images)
        if thinned is not None:
            sound[root], best = rows, thinned
    return best


def _tied(model: nn.Module, targets: Sequence[str], images: Tensor) -> list[Tied]:
    """All target layers whose channels may leave, by what they are tied with."""
    copy = shared_copy(model)
    graph, names = _trace(copy, images), {module: name for name, module in copy.named_modules()}
    found, seen = [], set[str]()
    for name in targets:
        layer = copy.get_submodule(name)
        if name in seen or layer not in graph.module2node:
            continue
        out = matrix_shape(layer)[0]
        group = _group(graph, layer, range(out))
        givers = {names[item.dep.target.module]: item for item in group if _gives(graph, item)}
        seen |= givers.keys()
        own = givers.keys() <= set(targets) and any(not _is_depthwise(copy.get_submodule(each)) for each in givers)
        if own and all(_may_lose(graph, item.dep.target.module, names) for item in group):
            layers = {each: torch.tensor([item.idxs, item.root_idxs]) for each, item in givers.items()}
            found.append(Tied(name, _units(copy, name, out), layers))
    return found


def _tried(
    model: nn.Module, targets: Sequence[str], drop: Mapping[str, Sequence[int]], images: Tensor
) -> Thinned | None:
    """The model without some rows of some layers; none where it is not the model that no longer hears them."""
    copy, deaf = shared_copy(model), shared_copy(model)
    graph, names = _trace(copy, images), {module: name for name, module in copy.named_modules()}
    rows = {name: torch.ones(matrix_shape(model.get_submodule(name))[0], dtype=torch.bool) for name in targets}
    for root, lost in drop.items():
        for item in _group(graph, copy.get_submodule(root), lost):
            name = names.get(item.dep.target.module, "")
            if _gives(graph, item):
                rows[name][item.idxs] = False
            elif _hears(graph, item):
                layer = deaf.get_submodule(name)
                weight = layer.get_parameter("weight").clone()
                weight[:, item.idxs] = 0
                layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    with torch.no_grad():
        expected = deaf(images)
        try:
            for root, lost in drop.items():
                _group(graph, copy.get_submodule(root), lost).prune()
            fit_heads(copy)
            logits = copy(images)
        except Exception:
            # A forward of shapes that do not fit raises whatever it pleases; such channels cannot leave.
            return None
    close = 1e-3 * float(expected.abs().max())
    if not torch.allclose(logits, expected, rtol=1e-3, atol=close, equal_nan=True):
        return None
    kept = {name: left.nonzero().flatten() for name, left in rows.items() if not left.all()}
    return Thinned(copy.requires_grad_(False).eval(), kept)


def _trace(model: nn.Module, images: Tensor) -> Any:
    """The dependency graph of ``model``, whose parameters become trainable for it."""
    try:
        from torch_pruning import DependencyGraph
    except ImportError as error:
        raise SpecError(
            f"structured pruning needs the package torch-pruning, which is not installed ({error}); install it with: "
            f"pip install 'restora[pruning]'"
        ) from None
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad():
        # The last layer's output is the graph's only where something comes after the layer.
        try:
            return DependencyGraph().build_dependency(model, [images], output_transform=torch.neg, verbose=False)
        except Exception as error:  # of calls that it does not know, it makes anything
            raise SpecError(
                f"torch-pruning cannot follow the channels of this model ({type(error).__name__}: {error}); choose "
                f"another compression"
            ) from error


def _group(graph: Any, layer: nn.Module, rows: Sequence[int]) -> Any:
    """All that is lost with some rows of a layer: items of a module, what it loses, and of which rows that comes."""
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(rows))


def _gives(graph: Any, item: Any) -> bool:
    """Whether a layer loses outputs."""
    layer = item.dep.target.module
    return isinstance(layer, nn.Linear | nn.Conv2d) and bool(graph.is_out_channel_pruning_fn(item.dep.handler))


def _hears(graph: Any, item: Any) -> bool:
    """Whether a layer loses inputs, and no outputs."""
    return isinstance(item.dep.target.module, nn.Linear | nn.Conv2d) and not _gives(graph, item)


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _may_lose(graph: Any, module: Any, names: Mapping[nn.Module, str]) -> bool:
    """Whether a module, or a call between modules, may lose channels."""
    if module not in names:
        return not isinstance(module, graph.ops._OutputOp | nn.Parameter)
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 or _is_depthwise(module)
    return isinstance(module, nn.Linear | _BatchNorm | nn.PReLU)


def _units(model: nn.Module, root: str, out: int) -> Tensor:
    """``[units, n]``, the rows of a layer that leave at once."""
    rows = torch.arange(out)
    for name, module in model.named_modules():
        if isinstance(module, Attention) and f"{root}.".startswith(f"{name}.qkv."):
            return rows.view(-1, module.num_heads, module.head_dim).transpose(0, 1).flatten(1)
    return rows[:, None]


def fit_heads(model: nn.Module) -> None:
    """Give attention as many heads as its layers have."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.attn_dim = module.proj.in_features
            module.num_heads = module.attn_dim // module.head_dim


def fit_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give Linear and Conv2d layers, batch norms, PReLUs and attention the shapes of tensors, in place.

    Args:
        model: The architecture; the values of what changes are lost.
        tensors: By the names of a ``state_dict``; a packed weight is ``fc1.weight.dense [out, in * kh * kw]``.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | _BatchNorm | nn.PReLU):
            continue
        for own, parameter in list(module.named_parameters(recurse=False)):
            shape = _shape(f"{name}.{own}".removeprefix("."), parameter, tensors)
            if shape != parameter.shape:
                module.register_parameter(own, nn.Parameter(parameter.new_empty(shape), parameter.requires_grad))
        for own, buffer in list(module.named_buffers(recurse=False)):
            shape = _shape(f"{name}.{own}".removeprefix("."), buffer, tensors)
            if shape != buffer.shape:
                module.register_buffer(own, buffer.new_empty(shape))
        _fit_attributes(module)
    fit_heads(model)


def _shape(name: str, own: Tensor, tensors: Mapping[str, Tensor]) -> torch.Size:
    """What the tensor of a file asks for; the shape that is, where it is not there or another kind of tensor."""
    given, packed = tensors.get(name), tensors.get(f"{name}.dense")
    if given is not None and given.ndim == own.ndim:
        return given.shape
    if packed is not None and packed.ndim == 2:
        kernel = own.shape[2:]
        return torch.Size([len(packed), packed.shape[1] // kernel.numel(), *kernel])
    return own.shape


def _fit_attributes(module: nn.Module) -> None:
    """Numbers that a module keeps beside its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        if _is_depthwise(module):
            module.groups = len(module.weight)
        module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, _BatchNorm):
        for each in (module.weight, module.running_mean):
            module.num_features = module.num_features if each is None else len(each)
