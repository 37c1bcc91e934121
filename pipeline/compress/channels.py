"""Channels that leave a model for good, with everything that depends on them.

The package torch-pruning follows them through a model (DepGraph: Fang et al., 2023, arXiv:2301.12900): into the inputs
of the next layers, batch norms, depthwise convolutions and across additions. What it says is not believed but tried: a
model that has lost channels must give what the whole one gives once no layer listens to them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.channel_shapes import fit_heads, is_depthwise
from pipeline.compress.layers import matrix_shape, shared_copy
from pipeline.errors import IntegrityError, SpecError


@dataclass(frozen=True)
class Thinned:
    """A model that has lost channels.

    Args:
        model: Frozen, in eval mode; what it kept whole lies in the memory of the model it was made from.
        rows: Which rows are left of each layer that lost some, ascending.
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
    that is tied with layers that are no targets, and one that the trial tells apart from the same channels unheard.

    Args:
        model: In any mode.
        targets: Names of Linear and Conv2d layers.
        images: A batch of one, on the device of the model; noise tells more apart than a picture.
        scores: Of each target's rows, ``[out]``.
        left: From the name of a layer and its number of units (channels, or attention heads) to how many stay.

    Raises:
        SpecError: The package torch-pruning is not installed, or cannot follow the channels of this model.
        IntegrityError: The model gives logits that are not finite.
    """
    trial, images = _shaken(model), images.double()
    drop = {tied.root: tied.lowest(scores, left(tied.root, len(tied.units))) for tied in _tied(trial, targets, images)}
    drop = {root: rows for root, rows in drop.items() if rows}
    if not _is_sound(trial, drop, images):
        sound = dict[str, list[int]]()
        for root, rows in drop.items():
            if _is_sound(trial, {**sound, root: rows}, images):
                sound[root] = rows
        drop = sound
    return _without(model, drop, images.to(next(model.parameters())))


def _shaken(model: nn.Module) -> nn.Module:
    """A copy in float64 with noise on its weights: layers that start at zero would hide what lies before them."""
    copy, generator = shared_copy(model).double(), torch.Generator().manual_seed(0)
    for parameter in copy.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.data = parameter.data + 0.1 * noise / math.sqrt(parameter[:1].numel())
    return copy


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
        own = givers.keys() & set(targets)
        seen |= own
        led = {each for each in givers if not is_depthwise(copy.get_submodule(each))}
        if led and led <= own and all(_may_lose(graph, item, names) for item in group):
            layers = {each: torch.tensor([item.idxs, item.root_idxs]) for each, item in givers.items() if each in own}
            found.append(Tied(name, _units(copy, name, out), layers))
    return found


def _is_sound(model: nn.Module, drop: Mapping[str, Sequence[int]], images: Tensor) -> bool:
    """Whether the model without some rows of some layers is the model that no longer hears them."""
    with torch.no_grad():
        expected = _deaf(model, drop, images)(images)
        if not expected.isfinite().all():
            raise IntegrityError("the model gives NaN or infinite logits for an image of noise; load sound weights")
        try:
            logits = _without(model, drop, images).model(images)
        except Exception:
            # A forward of shapes that do not fit raises whatever it pleases.
            return False
    return bool((logits - expected).abs().max() <= 1e-6 * expected.abs().max())


def _deaf(model: nn.Module, drop: Mapping[str, Sequence[int]], images: Tensor) -> nn.Module:
    """A copy of the same shapes in which all weights of the inputs are zero that come from some rows of some layers."""
    copy = shared_copy(model)
    graph = _trace(copy, images)
    for root, lost in drop.items():
        for item in _group(graph, copy.get_submodule(root), lost):
            if _hears(graph, item):
                layer = item.dep.target.module
                weight = layer.weight.detach().clone()
                weight[:, item.idxs] = 0
                layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return copy


def _without(model: nn.Module, drop: Mapping[str, Sequence[int]], images: Tensor) -> Thinned:
    """A copy without some rows of some layers."""
    copy, rows = shared_copy(model), dict[str, Tensor]()
    graph, names = _trace(copy, images), {module: name for name, module in copy.named_modules()}
    for root, lost in drop.items():
        group = _group(graph, copy.get_submodule(root), lost)
        for item in group:
            if _gives(graph, item):
                left = torch.ones(len(item.dep.target.module.weight), dtype=torch.bool)
                left[item.idxs] = False
                rows[names[item.dep.target.module]] = left.nonzero().flatten()
        group.prune()
    fit_heads(copy)
    return Thinned(copy.requires_grad_(False).eval(), rows)


def _trace(model: nn.Module, images: Tensor) -> Any:
    """The dependency graph of ``model``, whose parameters become trainable for it."""
    try:
        from torch_pruning import DependencyGraph
    except ImportError as error:
        raise SpecError(
            f"structured pruning needs the package torch-pruning, which is not installed ({error}); install it with: "
            f"pip install 'restora[pruning]'"
        ) from None
    model.requires_grad_(True)
    with torch.enable_grad():
        # The last layer's output is the graph's only where something comes after the layer.
        try:
            graph = DependencyGraph()  # type: ignore[no-untyped-call]
            return graph.build_dependency(model, [images], output_transform=torch.neg, verbose=False)
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


def _may_lose(graph: Any, item: Any, names: Mapping[nn.Module, str]) -> bool:
    """Whether a module, or a call between modules, may lose channels, and has those that it is said to lose."""
    module = item.dep.target.module
    if module not in names:
        return not isinstance(module, graph.ops._OutputOp | nn.Parameter)
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
        return False
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return isinstance(module, _BatchNorm | nn.PReLU)
    return bool(max(item.idxs) < (module.weight.shape[1] if _hears(graph, item) else len(module.weight)))


def _units(model: nn.Module, root: str, out: int) -> Tensor:
    """``[units, n]``, the rows of a layer that leave at once."""
    rows = torch.arange(out)
    for name, module in model.named_modules():
        if isinstance(module, Attention) and root == f"{name}.qkv":
            return rows.view(-1, module.num_heads, module.head_dim).transpose(0, 1).flatten(1)
    return rows[:, None]
