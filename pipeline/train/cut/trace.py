"""A model's calls, traced down to its trained layers, with what each of them gives for a few images."""

import inspect
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.adapt.lanes import LaneLayer

COSTLY = ("matmul", "mm", "einsum", "attention", "conv", "linear")
"""Parts of the names of functions that multiply matrices; all others are cheap to do again."""


class CannotCutError(Exception):
    """The model cannot be cut; the text says why."""


_TRACING = threading.Lock()
"""Held while a model is traced: ``fx`` changes what every module's call does, and undoes it in the opposite order."""


class _Tracer(fx.Tracer):
    """Goes into a module only where a trained layer lies within; other threads compute meanwhile as ever."""

    def __init__(self, trained: Iterable[str]) -> None:
        super().__init__()
        self._trained = frozenset(trained)
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = threading.get_ident() == self._thread
        return super().call_module(m, forward, args, kwargs) if own else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        own = threading.get_ident() == self._thread
        return super().getattr(attr, attr_val, parameter_proxy_cache) if own else attr_val

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = f"{module_qualified_name}."
        return not any(name.startswith(inside) for name in self._trained)


class Calls:
    """The calls of a model, and what is known of their values.

    Args:
        model: The compressed model, in eval mode.
        layers: The trained layers, by name.
        images: Three images or more.

    Raises:
        CannotCutError: They cannot be traced, or do not run when they are.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, LaneLayer], images: Tensor) -> None:
        self.model, self.layers = model, layers
        self.graph = _trace(model, layers)
        self.nodes = list(self.graph.nodes)
        self.images = self.nodes[0]
        # What each call gives for n images and for one less: sizes that differ come from the number of images.
        self.n = len(images)
        self.in_place = set[fx.Node]()
        self.values, self.fewer = (self._values(some.clone()) for some in (images, images[:-1]))
        self.of_images, self.of_lane = set[fx.Node](), set[fx.Node]()
        for node in self.nodes:
            if node is self.images or any(each in self.of_images for each in node.all_input_nodes):
                self.of_images.add(node)
            if self.is_trained(node) or any(each in self.of_lane for each in node.all_input_nodes):
                self.of_lane.add(node)

    def _values(self, images: Tensor) -> dict[fx.Node, Any]:
        """What each call gives; those that change what they are given are noted, whatever lies within them."""
        in_place = self.in_place

        class Noting(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                given = [noted[each] for each in n.all_input_nodes if isinstance(noted[each], Tensor)]
                versions = [tensor._version for tensor in given]
                noted[n] = super().run_node(n)
                if [tensor._version for tensor in given] != versions:
                    in_place.add(n)
                return noted[n]

        noted: dict[fx.Node, Any] = {}
        try:
            with torch.no_grad():
                Noting(self.model, graph=self.graph).run(images)
        except Exception as error:
            raise CannotCutError(f"its traced calls do not run ({_first_line(error)})") from error
        return noted

    def is_trained(self, node: fx.Node) -> bool:
        return node.op == "call_module" and node.target in self.layers

    def is_shared(self, node: fx.Node) -> bool:
        """Whether it is a tensor with one row an image that is the same in every trial."""
        value = self.values.get(node)
        return node in self.of_images and node not in self.of_lane and isinstance(value, Tensor) and value.ndim > 0

    def is_size(self, node: fx.Node) -> bool:
        """Whether it is a number, or numbers, of the images' shapes: no tensor, nor a tuple that holds one."""
        value = self.values.get(node)
        several = value if isinstance(value, tuple | list) else (value,)
        return node in self.of_images and node.op != "output" and not any(isinstance(v, Tensor) for v in several)

    def is_costly(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return any(parameter.ndim > 1 for parameter in module.parameters())
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        return node.op in ("call_function", "call_method") and any(part in name for part in COSTLY)


def _trace(model: nn.Module, layers: Mapping[str, LaneLayer]) -> fx.Graph:
    _, *others = inspect.signature(model.forward).parameters.values()
    defaults = {each.name: each.default for each in others if each.default is not each.empty}
    try:
        with _TRACING:
            return _Tracer(layers).trace(model, concrete_args=defaults)
    except Exception as error:
        # A model's own code runs on stand-ins here, and may raise anything at all.
        raise CannotCutError(f"its calls cannot be traced ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def alike(some: Tensor, others: Tensor) -> bool:
    """Whether they are the same but for rounding."""
    if not some.is_floating_point():
        return torch.equal(some, others)
    close = 1e-3 * float(some.nan_to_num(0, 0, 0).abs().max()) if some.numel() else 0.0
    return torch.allclose(some, others, rtol=1e-3, atol=close, equal_nan=True)
