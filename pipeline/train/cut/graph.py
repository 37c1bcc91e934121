"""Where a model can be cut: what no trained number reaches is the same in every trial, and is computed once.

The model's calls are traced (``torch.fx``) down to its trained layers; whatever holds none of them stays whole. Then
every value is either *shared*, because it depends on the images alone, or it belongs to a lane. Shared values are had
in two stages::

    images --stem--> few numbers, kept on disk --shared--> what the lanes need --tail--> logits [T * n, classes]

The stem holds the costly frozen layers, as far as the first trained one; ``shared`` what is cheap, and the frozen part
of those trained layers that see a shared input, the frozen base product of the first one among them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.adapt.lanes import LaneLayer, each_lane
from pipeline.compress.layers import shared_copy
from pipeline.train.cut.trace import Calls, CannotCutError, alike


@dataclass(frozen=True)
class Cut:
    """A model in stages. Each gives a tuple of tensors, one row an image, but ``tail`` and ``plain`` give logits.

    Args:
        stem: From images; none where no costly layer comes before the first trained one. ``stem.code`` tells its calls.
        shared: From what the stem gives (from images, where there is none) to what the lanes need.
        tail: From the lanes and what ``shared`` gives.
        plain: From a model of the same calls to the rest of it, without lanes, from what the stem gives.
        names: What the stem gives, in words.
        state: Tensors of the model that the stem computes with, by the model's own names.
    """

    stem: nn.Module | None
    shared: Callable[..., tuple[Tensor, ...]]
    tail: Callable[..., Tensor]
    plain: Callable[[nn.Module], Callable[..., Tensor]]
    names: tuple[str, ...]
    state: Mapping[str, Tensor]


def cut(model: nn.Module, layers: Mapping[str, LaneLayer], images: Tensor) -> Cut:
    """Cut a model before its trained layers.

    Args:
        model: The compressed model, in eval mode.
        layers: The trained layers, by name.
        images: Three images or more, to see what each call gives.

    Raises:
        CannotCutError: Its calls cannot be traced, or are not what cutting needs.
    """
    return _Cutter(Calls(model, layers, images)).cut()


class _Cutter:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def cut(self) -> Cut:
        output = self.calls.nodes[-1]
        if output.all_input_nodes != [output.args[0]] or output.args[0] not in self.calls.of_lane:
            raise CannotCutError("its output is not one tensor that a trained layer reaches")
        trained = [node for node in self.calls.nodes if self.calls.is_trained(node)]
        for node in trained:
            if node.kwargs or len(node.args) != 1:
                raise CannotCutError(f"its layer '{node.target}' is not called with one tensor")
        for node in self.calls.nodes:
            if node.op == "get_attr" and str(node.target).rpartition(".")[0] in self.calls.layers:
                raise CannotCutError(f"it reads '{node.target}' of a trained layer itself")
        needed = self._needed()
        frontier = self._frontier(needed)
        bases = [node for node in trained if self.calls.is_shared(_input(node))]
        root = _with_lane_layers(self.calls.model, self.calls.layers)
        before = None if frontier == [self.calls.images] else self._stage([self.calls.images], frontier)
        shared, inputs = self._shared(frontier, needed, bases)
        stem = None if before is None else fx.GraphModule(self.calls.model, before)
        state = stem.state_dict() if stem is not None else {}
        return Cut(
            stem=stem,
            shared=fx.GraphModule(root, shared),
            tail=fx.GraphModule(root, self._tail(inputs, bases)),
            plain=functools.partial(
                _with_calls, traced=self.calls.model, graph=self._stage(frontier, [output.args[0]], whole=True)
            ),
            names=tuple("images" if node is self.calls.images else str(node) for node in frontier),
            state={name: tensor for name, tensor in state.items() if not name.startswith(MADE)},
        )

    def _needed(self) -> list[fx.Node]:
        """Shared tensors that calls of lanes take, in the order of the calls."""
        taken = {each for node in self.calls.of_lane for each in node.all_input_nodes}
        needed = [node for node in self.calls.nodes if node in taken and self.calls.is_shared(node)]
        for node in needed:
            rows, fewer = self.calls.values[node], self.calls.fewer[node]
            if (len(rows), len(fewer)) != (self.calls.n, self.calls.n - 1):
                raise CannotCutError("what its frozen layers give does not have one row an image")
            if not alike(rows[:-1], fewer):
                raise CannotCutError("what its frozen layers give for an image depends on the images beside it")
        return needed

    def _frontier(self, needed: Sequence[fx.Node]) -> list[fx.Node]:
        """What the stem gives: the needed tensors, but for those that others of them give cheaply."""
        behind = set[fx.Node]()
        for node in reversed(self.calls.nodes):
            if node in needed or any(user in behind for user in node.users):
                behind.add(node)
        if not any(self.calls.is_costly(node) for node in behind if node not in self.calls.of_lane):
            return [self.calls.images]
        frontier = list(needed)
        for node in reversed(needed):
            rest = [each for each in frontier if each is not node]
            if rest and self._is_cheap(node, rest):
                frontier = rest
        return frontier

    def _is_cheap(self, node: fx.Node, given: Sequence[fx.Node]) -> bool:
        """Whether it can be had again from some values without a costly call."""
        behind = {node}
        for each in reversed(self.calls.nodes):
            if each not in behind or each in given or each not in self.calls.of_images or self.calls.is_size(each):
                continue
            if each is self.calls.images or self.calls.is_costly(each) or each in self.calls.in_place:
                return False
            behind |= set(each.all_input_nodes)
        return True

    def _stage(self, given: Sequence[fx.Node], wanted: Sequence[Any], *, whole: bool = False) -> fx.Graph:
        """The calls that lead from some values to others; a ``whole`` graph returns one tensor, else a tuple."""
        graph = fx.Graph()
        made: dict[fx.Node, Any] = {node: graph.placeholder(str(node)) for node in given}
        first, between = made[given[0]], self._between(given, wanted)
        if not self.calls.in_place.isdisjoint(between):  # what is given may lie in a file, or serve others
            made = {node: graph.call_method("clone", (given_node,)) for node, given_node in made.items()}
        for node in between:
            if self.calls.is_size(node):
                made[node] = self._size(graph, node, 1, first)
            else:
                made[node] = graph.node_copy(node, lambda each: made[each])
        graph.output(made[wanted[0]] if whole else tuple(made[node] for node in wanted))
        return graph

    def _between(self, given: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> list[fx.Node]:
        """Calls that ``wanted`` depends on, and that ``given`` does not spare, in their order."""
        behind = set(wanted) - set(given)
        for node in reversed(self.calls.nodes):
            if node in behind and not self.calls.is_size(node):
                behind |= set(node.all_input_nodes) - set(given)
        if self.calls.images in behind:
            raise CannotCutError("a layer after its trained ones looks at the images again")
        return [node for node in self.calls.nodes if node in behind]

    def _shared(
        self, frontier: Sequence[fx.Node], needed: Sequence[fx.Node], bases: Sequence[fx.Node]
    ) -> tuple[fx.Graph, list[fx.Node]]:
        """Needed tensors and frozen products of shared inputs; and the calls whose values those are."""
        graph = self._stage(frontier, needed)
        output = next(iter(reversed(graph.nodes)))
        made = dict(zip(needed, output.args[0], strict=True))
        with graph.inserting_before(output):
            products = [graph.call_module(f"{node.target}.frozen", (made[_input(node)],)) for node in bases]
        output.args = ((*output.args[0], *products),)
        return graph, [*needed, *bases]

    def _tail(self, inputs: Sequence[fx.Node], bases: Sequence[fx.Node]) -> fx.Graph:
        """What differs by lane, from the shared values on."""
        graph = fx.Graph()
        lanes = graph.placeholder("lanes")
        given = {node: graph.placeholder(f"{node}_product" if node in bases else str(node)) for node in inputs}
        count = graph.call_function(getattr, (lanes, "count"))
        copies: dict[fx.Node, Any] = {}
        made: dict[fx.Node, fx.Node] = {}

        def operand(node: fx.Node) -> Any:
            if node in made:
                return made[node]
            if node not in copies:
                if self.calls.is_shared(node):
                    copies[node] = graph.call_function(each_lane, (given[node], count))
                elif node not in self.calls.of_images:  # parameters, and what is computed from them alone
                    copies[node] = graph.node_copy(node, operand)
                else:
                    copies[node] = self._size(graph, node, count, next(iter(given.values())))
            return copies[node]

        for node in self.calls.nodes:
            if node not in self.calls.of_lane:
                continue
            if not self.calls.is_trained(node):
                made[node] = graph.node_copy(node, operand)
                continue
            x, shared = _input(node), node in bases
            entering = given[x] if shared else operand(x)
            stacks = graph.call_method("of", (lanes, str(node.target)))
            made[node] = graph.call_module(str(node.target), (entering, given[node] if shared else None, stacks))
        return graph

    def _size(self, graph: fx.Graph, node: fx.Node, count: fx.Node | int, first: fx.Node) -> Any:
        """A number, or numbers, that a shape gave: as it was, but for the number of images."""

        def replaced(value: Any, fewer: Any) -> Any:
            if isinstance(value, tuple) and isinstance(fewer, tuple) and len(value) == len(fewer):
                return tuple(map(replaced, value, fewer))
            if isinstance(value, int | float | bool | str | torch.dtype | torch.device | None) and value == fewer:
                return value
            if (value, fewer) == (self.calls.n, self.calls.n - 1):
                return graph.call_function(rows_of, (first, count))
            raise CannotCutError(f"it computes {node} from its input, which cannot be told apart by lane")

        return replaced(self.calls.values.get(node), self.calls.fewer.get(node))


MADE = "_tensor_constant"
"""How names begin of tensors that a forward makes itself."""


def _input(node: fx.Node) -> fx.Node:
    """What a trained layer is called with."""
    (x,) = node.all_input_nodes
    return x


def rows_of(first: Tensor, count: int) -> int:
    """How many rows a tensor has that differs by lane."""
    return len(first) * count


def _with_calls(model: nn.Module, traced: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    root = shared_copy(model)
    for node in graph.nodes:  # tensors that a forward makes itself are kept by the model that was traced
        if node.op == "get_attr" and str(node.target).startswith(MADE):
            setattr(root, str(node.target), getattr(traced, str(node.target)))
    return fx.GraphModule(root, graph)


def _with_lane_layers(model: nn.Module, layers: Mapping[str, LaneLayer]) -> nn.Module:
    root = shared_copy(model)
    for name, layer in layers.items():
        root.set_submodule(name, layer)
    return root
