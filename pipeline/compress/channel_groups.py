"""Which output channels of a model can be removed, and which only together.

The package torch-pruning traces the dependencies (DepGraph: Fang et al., 2023, arXiv:2301.12900): inputs of the next
layers, batch norms, depthwise convolutions, additions.
"""

import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.channel_shapes import is_depthwise
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape
from pipeline.errors import SpecError
from pipeline.task.timm_layers import timm_layer
from pipeline.wording import few

Lost = Mapping[tuple[str, int], set[int]]
"""The indices that are lost by the name of a module and the axis of its weight: 0 for outputs, 1 for inputs."""


@dataclass(frozen=True)
class ChannelGroup:
    """Output channels of one or more target layers that can only be removed together."""

    root: str  # the name of one of the layers
    units: Tensor  # [out], the unit of each row of `root`; the rows of a unit, such as an attention head, go together
    layers: Mapping[str, Tensor]  # per layer [2, m]: its rows, and the rows of `root` with which they are removed

    @property
    def count(self) -> int:
        """The number of units."""
        return int(self.units.max()) + 1

    def lowest(self, scores: Mapping[str, Tensor], kept: int) -> list[int]:
        """The rows of ``root`` that are removed if the ``kept`` units with the highest scores remain.

        A unit's score is the sum of ``scores [out]`` over its rows in all layers. Of equal units the first remains.
        """
        total = torch.zeros(self.count, dtype=torch.float64)
        for name, (rows, root_rows) in self.layers.items():
            total.index_add_(0, self.units[root_rows], scores[name].double().cpu()[rows])
        ranking = total.argsort(descending=True, stable=True)
        return torch.isin(self.units, ranking[kept:]).nonzero().flatten().tolist()


class Channels:
    """The output channels of a model's layers, as torch-pruning traced them on a batch of one image."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._model = copy_sharing_tensors(model)
        self._graph = _trace(self._model, images)
        self._names = {module: name for name, module in self._model.named_modules()}
        self._items: dict[str, list[Any]] = {}

    def groups(self, targets: Sequence[str]) -> tuple[list[ChannelGroup], dict[str, str]]:
        """The groups of the target layers whose channels may be removed, and why those of the others may not."""
        groups, whole, seen = list[ChannelGroup](), dict[str, str](), set[str]()
        for name in targets:
            layer = self._model.get_submodule(name)
            if name in seen:
                continue
            if layer not in self._graph.module2node:
                whole[name] = "the model does not call it"
                continue
            if why := next(filter(None, map(self._needs_all, self._reached(layer))), None):
                whole[name] = why
                continue
            out = matrix_shape(layer)[0]
            items = self._items[name] = self._lost_with(name, range(out))
            losing = {self._names[item.dep.target.module]: item for item in items if self._loses_outputs(item)}
            rows = {key: torch.tensor([item.idxs, item.root_idxs]) for key, item in losing.items() if key in targets}
            seen |= rows.keys()
            if why := self._obstacle(items) or _foreign(self._model, losing, rows):
                whole |= dict.fromkeys([name, *rows], why)
            else:
                ties = self._ties(name, out) if any(len(set(item.root_idxs)) < out for item in items) else []
                groups.append(ChannelGroup(name, _units(self._model, name, out, ties), rows))
        return groups, whole

    def lost(self, removed: Mapping[str, Iterable[int]]) -> Lost:
        """All channels that are lost with whole units of some groups: those of layers, batch norms and PReLUs."""
        lost = defaultdict[tuple[str, int], set[int]](set)
        for root, rows in removed.items():
            chosen = set(rows)
            for item in self._items[root]:
                module = item.dep.target.module
                if module in self._names:
                    inputs = isinstance(module, nn.Linear | nn.Conv2d) and not self._loses_outputs(item)
                    pairs = zip(item.idxs, item.root_idxs, strict=True)
                    lost[self._names[module], int(inputs)] |= {index for index, row in pairs if row in chosen}
        return lost

    def _lost_with(self, root: str, rows: Iterable[int]) -> list[Any]:
        """What is lost with some rows of a layer: modules, the indices that each loses, and the rows they follow."""
        layer, graph = self._model.get_submodule(root), self._graph
        return list(graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(rows)))

    def _loses_outputs(self, item: Any) -> bool:
        """Whether output channels of a layer are lost; a depthwise convolution loses its inputs with them."""
        of_outputs = bool(self._graph.is_out_channel_pruning_fn(item.dep.handler))
        return of_outputs and isinstance(item.dep.target.module, nn.Linear | nn.Conv2d)

    def _reached(self, layer: nn.Module) -> Iterator[Any]:
        """The modules and operations that lose channels with a layer, whichever channels.

        torch-pruning follows each channel through every reshape, which may take minutes for a model with many.
        """
        start = self._graph.module2node[layer], self._graph.get_pruner_of_module(layer).prune_out_channels
        seen, open_ends = {start}, [start]
        while open_ends:
            node, handler = open_ends.pop()
            yield node.module
            for dep in node.dependencies:
                end = dep.target, dep.handler
                if dep.is_triggered_by(handler) and end not in seen:
                    seen.add(end)
                    open_ends.append(end)

    def _needs_all(self, module: Any) -> str | None:
        """Why a module or an operation can lose none of the channels that it is given."""
        if isinstance(module, self._graph.ops._OutputOp):
            return "it gives the model's outputs"
        if isinstance(module, nn.Parameter):
            return "a parameter of the model outside any layer has one value for each of its channels"
        if module not in self._names:
            return None  # an operation that takes any number of channels
        if isinstance(module, nn.Linear | nn.Conv2d) and "weight" not in module._parameters:
            return f"its channels enter '{self._names[module]}', whose weight is computed"
        if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
            return f"'{self._names[module]}' is a convolution in groups"
        if not isinstance(module, nn.Linear | nn.Conv2d | _BatchNorm | nn.PReLU):
            return f"its channels enter '{self._names[module]}' ({type(module).__name__}), which needs all of them"
        return None

    def _obstacle(self, items: Iterable[Any]) -> str | None:
        """Why channels cannot be removed with some dependencies: torch-pruning follows them to where none are."""
        for item in items:
            module = item.dep.target.module
            if module in self._names and isinstance(module, nn.Linear | nn.Conv2d):
                held = len(module.weight) if self._loses_outputs(item) else module.weight.shape[1]
                if max(item.idxs) >= held:
                    return f"its channels enter '{self._names[module]}' in an order that cannot be followed"
        return None

    def _ties(self, root: str, out: int) -> list[tuple[int, int]]:
        """Pairs of rows of a layer that can only be removed together: the model splits its channels and joins them.

        The numbers of a pair differ in some bit, so removing all rows with that bit brings the other of the pair along.
        """
        pairs = set[tuple[int, int]]()
        for bit in range((out - 1).bit_length()):
            for item in self._lost_with(root, [row for row in range(out) if row >> bit & 1]):
                if self._names.get(item.dep.target.module) == root and self._loses_outputs(item):
                    pairs |= set(zip(item.idxs, item.root_idxs, strict=True))
        return sorted(pairs)


def _trace(model: nn.Module, images: Tensor) -> Any:
    """The dependency graph of torch-pruning for a model, whose parameters become trainable."""
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
            where = _layers_before(error, model)
            raise SpecError(
                f"torch-pruning cannot follow the channels of this model{where and f' after {few(where)}'} "
                f"({type(error).__name__}: {error}), perhaps because its code shuffles or reshapes them; choose "
                f"another compression"
            ) from error


def _layers_before(error: Exception, model: nn.Module) -> list[str]:
    """The layers whose channels enter the operation at which torch-pruning failed, as far as that can be told."""
    names = {module: name for name, module in model.named_modules()}
    values = [value for frame, _ in traceback.walk_tb(error.__traceback__) for value in list(frame.f_locals.values())]
    nodes = [value for value in values if type(value).__name__ == "Node"][-1:]
    before, seen = list[str](), set(nodes)
    while nodes:
        node = nodes.pop()
        if node.module in names:
            before.append(names[node.module])
        else:
            nodes += [source for source in node.inputs if source not in seen]
            seen |= set(node.inputs)
    return sorted(before)


def _foreign(model: nn.Module, losing: Iterable[str], targets: Iterable[str]) -> str | None:
    """Why the layers that lose channels together cannot, although nothing else needs the channels.

    A depthwise convolution loses the channels of the layer before it, whether it is a target or not.
    """
    independent = [name for name in losing if not is_depthwise(model.get_submodule(name))]
    others = [name for name in independent if name not in targets]
    if others:
        return f"its channels are those of '{others[0]}', which is not among the targets"
    return None if independent else "it has one filter for each channel of the images"


def _units(model: nn.Module, root: str, out: int, ties: Iterable[tuple[int, int]]) -> Tensor:
    """``[out]``, the unit of each row of a layer: rows that are tied share one, as do a head's for timm's ``qkv``."""
    units = torch.arange(out)
    for name, module in model.named_modules():
        if isinstance(module, timm_layer("attention.Attention")) and root == f"{name}.qkv":
            units = torch.arange(module.num_heads).repeat_interleave(module.head_dim).repeat(3)
    for row, other in ties:
        units[units == units[row]] = units[other].clone()
    numbered: Tensor = torch.unique(units, return_inverse=True)[1]
    return numbered
