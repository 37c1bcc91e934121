"""Cutting a model into stages, so that values that depend on no trained parameter are computed once.

The model's calls are traced (``torch.fx``) down to its trained layers; a module without a trained layer is one call.
Each value is then either *shared*, if it depends on the images alone, or specific to a lane. There are three stages::

    images --stem--> features, cached on disk --shared--> inputs of the lanes --tail--> logits [T * n, classes]

The stem has the costly frozen layers before the first trained one. ``shared`` has the cheap calls, and the frozen part
of trained layers with a shared input, such as the frozen base product of the first trained layer.
"""

import copy
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.adapt.lanes import LaneLayer, Lanes, repeat_for_lanes
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.task.bare_model import replace_modules, tensor_state
from pipeline.train.cut.trace import Calls, CannotCutError, alike, models_code
from pipeline.train.rows import Stem


@dataclass(frozen=True)
class Cut:
    """The stages of a model. ``stem`` and ``shared`` return tensors with one row per image, the others logits.

    Without a costly layer before the first trained one there is no stem, and the features are the images.
    """

    stem: nn.Module | None  # from images to features; `stem.code` describes its calls
    shared: Callable[..., tuple[Tensor, ...]]  # from features to the inputs of `tail`
    tail: Callable[..., Tensor]  # from lanes and the outputs of `shared` to logits [T * n, classes]
    without_lanes: Callable[[nn.Module], Callable[..., Tensor]]  # from a model with the same calls to its `Logits`
    names: tuple[str, ...]  # of the features, for messages
    state: Mapping[str, Tensor]  # the tensors of the model's state that the stem uses, by their names in the model


def cut(model: nn.Module, layers: Mapping[str, LaneLayer], images: Tensor) -> Cut:
    """Cut a model before its trained layers; ``images [n, ...]``, three or more, show what each call returns."""
    return _Cutter(model, layers, images).cut()


class _Cutter(Calls):
    def cut(self) -> Cut:
        output = self.nodes[-1]
        if output.all_input_nodes != [output.args[0]] or output.args[0] not in self.of_lane:
            raise CannotCutError("its output is not one tensor that a trained layer reaches")
        trained = [node for node in self.nodes if self.is_trained(node)]
        for node in trained:
            if node.kwargs or len(node.args) != 1 or node.args[0] not in node.all_input_nodes:
                raise CannotCutError(f"its layer '{node.target}' is not called with one tensor")
        needed = self._needed()
        frontier = self._frontier(needed)
        bases = [node for node in trained if self.is_shared(node.all_input_nodes[0])]
        root = copy_sharing_tensors(self.model)
        replace_modules(root, self.layers)
        stem = None
        if frontier != [self.images]:
            stem = fx.GraphModule(self.model, self._stage([self.images], frontier))
        state = tensor_state(stem) if stem is not None else {}
        calls = self._stage(frontier, [output.args[0]])
        return Cut(
            stem=stem,
            shared=fx.GraphModule(root, self._stage(frontier, needed, bases)),
            tail=fx.GraphModule(root, self._tail(needed, bases)),
            without_lanes=functools.partial(_with_calls, traced=self.model, graph=calls),
            names=tuple("images" if node is self.images else str(node) for node in frontier),
            state={name: tensor for name, tensor in state.items() if not name.startswith(CONSTANT)},
        )

    def _needed(self) -> list[fx.Node]:
        """Shared tensors that lane-specific calls take as inputs, in the order of the calls."""
        inputs = {source for node in self.of_lane for source in node.all_input_nodes}
        needed = [node for node in self.nodes if node in inputs and self.is_shared(node)]
        for node in needed:
            rows, fewer = self.values[node], self.fewer[node]
            if (len(rows), len(fewer)) != (self.n, self.n - 1):
                raise CannotCutError("the output of its frozen layers does not have one row per image")
            if not alike(rows[:-1], fewer):
                raise CannotCutError("the output of its frozen layers for an image depends on the other images")
        return needed

    def _frontier(self, needed: Sequence[fx.Node]) -> list[fx.Node]:
        """The features: the needed tensors, except those that follow cheaply from the other ones."""
        ancestors = set[fx.Node]()
        for node in reversed(self.nodes):
            if node in needed or any(user in ancestors for user in node.users):
                ancestors.add(node)
        if not any(self.is_costly(node) for node in ancestors if node not in self.of_lane):
            return [self.images]
        frontier = list(needed)
        for node in reversed(needed):
            rest = [other for other in frontier if other is not node]
            if rest and self._is_cheap(node, rest):
                frontier = rest
        return frontier

    def _is_cheap(self, node: fx.Node, given: Sequence[fx.Node]) -> bool:
        """Whether a value can be computed from the ``given`` ones without a costly call."""
        ancestors = {node}
        for call in reversed(self.nodes):
            if call not in ancestors or call in given or call not in self.of_images or self.is_size(call):
                continue
            if call is self.images or self.is_costly(call) or call in self.in_place:
                return False
            ancestors |= set(call.all_input_nodes)
        return True

    def _stage(self, given: Sequence[fx.Node], wanted: Sequence[Any], bases: Sequence[fx.Node] = ()) -> fx.Graph:
        """The graph from ``given`` values to ``wanted`` ones and the frozen products of ``bases``, as a tuple."""
        graph = fx.Graph()
        copies: dict[fx.Node, Any] = {node: graph.placeholder(str(node)) for node in given}
        first, between = copies[given[0]], self._between(given, wanted)
        if not self.in_place.isdisjoint(between):  # the given tensors may be mapped from disk, or used again
            copies = {node: graph.call_method("clone", (placeholder,)) for node, placeholder in copies.items()}
        for node in between:
            if self.is_size(node):
                copies[node] = self._size(graph, node, 1, first)
            else:
                copies[node] = graph.node_copy(node, lambda source: copies[source])
        products = [graph.call_module(f"{node.target}.frozen", (copies[node.all_input_nodes[0]],)) for node in bases]
        graph.output((*(copies[node] for node in wanted), *products))
        return graph

    def _between(self, given: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> list[fx.Node]:
        """The calls that ``wanted`` depends on beyond ``given``, in their order."""
        ancestors = set(wanted) - set(given)
        for node in reversed(self.nodes):
            if node in ancestors and not self.is_size(node):
                ancestors |= set(node.all_input_nodes) - set(given)
        if self.images in ancestors:
            raise CannotCutError("a layer after its trained ones reads the images again")
        return [node for node in self.nodes if node in ancestors]

    def _tail(self, needed: Sequence[fx.Node], bases: Sequence[fx.Node]) -> fx.Graph:
        """The graph of the lane-specific calls, from lanes and the outputs of ``shared`` to logits."""
        graph = fx.Graph()
        lanes = graph.placeholder("lanes")
        given = {node: graph.placeholder(str(node)) for node in needed}
        products = {node: graph.placeholder(f"{node}_product") for node in bases}
        count, layers = (graph.call_function(getattr, (lanes, name)) for name in ("count", "layers"))
        copies: dict[fx.Node, Any] = {}

        def operand(node: fx.Node) -> Any:
            if node not in copies:
                if self.is_shared(node):
                    copies[node] = graph.call_function(repeat_for_lanes, (given[node], count))
                elif node not in self.of_images:  # parameters, and values computed from them alone
                    copies[node] = graph.node_copy(node, operand)
                else:
                    copies[node] = self._size(graph, node, count, next(iter(given.values())))
            return copies[node]

        for node in self.nodes:
            if node not in self.of_lane:
                continue
            if not self.is_trained(node):
                copies[node] = graph.node_copy(node, operand)
                continue
            (x,) = node.all_input_nodes
            entering = given[x] if node in bases else operand(x)
            stacks = graph.call_function(operator.getitem, (layers, str(node.target)))
            copies[node] = graph.call_module(str(node.target), (entering, products.get(node), stacks))
        return graph

    def _size(self, graph: fx.Graph, node: fx.Node, count: fx.Node | int, first: fx.Node) -> Any:
        """A number or tuple from a shape, with the count of images replaced by ``count`` rows for each of ``first``."""

        def replaced(value: Any, fewer: Any) -> Any:
            if isinstance(value, tuple) and isinstance(fewer, tuple) and len(value) == len(fewer):
                return tuple(map(replaced, value, fewer))
            if isinstance(value, int | float | bool | str | torch.dtype | torch.device | None) and value == fewer:
                return value
            if (value, fewer) == (self.n, self.n - 1):
                return graph.call_function(rows_of, (first, count))
            raise CannotCutError(f"it computes {node} from its input, which cannot be separated by lane")

        return replaced(self.values.get(node), self.fewer.get(node))


CONSTANT = "_tensor_constant"
"""Prefix that ``fx`` gives the names of tensors that a forward creates."""


def rows_of(first: Tensor, count: int) -> int:
    """The number of rows of a lane-specific tensor: ``count`` lanes for each row of ``first``."""
    return len(first) * count


def _with_calls(model: nn.Module, traced: nn.Module, graph: fx.Graph) -> Callable[..., Tensor]:
    """The function of a graph that calls the modules of ``model`` itself."""
    root = copy.copy(model)
    for node in graph.nodes:  # tensors that a forward creates are held by the traced model
        if node.op == "get_attr" and str(node.target).startswith(CONSTANT):
            setattr(root, str(node.target), getattr(traced, str(node.target)))
    module = fx.GraphModule(root, graph)
    return lambda *features: module(*features)[0]


def cut_head(model: nn.Module, layers: Mapping[str, LaneLayer], images: Tensor) -> Cut:
    """Cut a model whose calls cannot be traced before its head, if that is the only trained layer and the last one.

    The layers before it may neither decide by values what to compute, nor mix the images of a batch. The stem is the
    model with an identity in place of the head.
    """
    if len(layers) != 1:
        raise CannotCutError("several layers are trained")
    ((name, layer),) = layers.items()
    trunk = Stem(copy_sharing_tensors(model), f"{type(model).__qualname__} up to {name}")
    replace_modules(trunk.model, {name: nn.Identity()})
    with models_code(f"it does not run without its layer '{name}'"), torch.no_grad():
        (features,), (fewer,) = trunk(images), trunk(images[:-1])
    # Fake tensors have shapes and no values, so that any decision by a value raises.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with models_code("values decide what it computes"), fake, torch.no_grad():
        trunk(fake.from_tensor(images))
    with torch.no_grad():
        if not alike(features[:-1], fewer):
            raise CannotCutError("the output of its frozen layers for an image depends on the other images")
        if not alike(model.get_submodule(name)(features), model(images)):
            raise CannotCutError(f"something comes after its layer '{name}'")

    def shared(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, layer.frozen(x)

    def tail(lanes: Lanes, x: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = layer(x, y, lanes.layers[name])
        return logits

    return Cut(
        stem=trunk,
        shared=shared,
        tail=tail,
        without_lanes=lambda other: other.get_submodule(name),
        names=(f"input of {name}",),
        state=tensor_state(trunk.model),
    )
