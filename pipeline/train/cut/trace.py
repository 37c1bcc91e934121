"""The calls of a model, traced down to its trained layers, with their values for a few images."""

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.adapt.lanes import FormOnly, LaneLayer, forms
from pipeline.compress.layers import copy_sharing_tensors

COSTLY = ("matmul", "mm", "einsum", "attention", "conv", "linear")
"""Parts of the names of functions that multiply matrices; all other functions are cheap to repeat."""


class CannotCutError(Exception):
    """The model cannot be cut; the message says why."""


@contextmanager
def models_code(why: str) -> Iterator[None]:
    """Turn whatever the code of a model raises, but a lack of memory, into a ``CannotCutError``."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise CannotCutError(f"{why} ({type(error).__name__}: {first_line})") from error


_TRACING = threading.Lock()
"""Held while a model is traced: ``fx`` patches the call of every module of the process."""


class _Tracer(fx.Tracer):
    """Traces into a module only if it has a trained layer inside; other threads compute undisturbed meanwhile."""

    def __init__(self, trained: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._trained = frozenset(trained.values())
        self._forms = {
            id(module._parameters[key]): form
            for name, module in trained.items()
            for key, form in forms(module, name).items()
        }
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        if isinstance(attr_val, nn.Parameter) and id(attr_val) in self._forms:
            return self._forms[id(attr_val)]
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *options: Any, **more: Any
    ) -> Any:
        operands = (*args, *kwargs.values())
        if target not in FormOnly.METHODS_OF_ANOTHER and any(isinstance(operand, FormOnly) for operand in operands):
            raise FormOnly.read(operands, getattr(target, "__name__", str(target)))
        return super().create_proxy(kind, target, args, kwargs, *options, **more)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, FormOnly):  # only the form is used, so that any tensor of this form will do
            with torch._C.DisableTorchFunctionSubclass():
                a = a.as_subclass(torch.Tensor)
        return super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._trained or self._trained.isdisjoint(m.modules())


class Calls:
    """The traced calls of a model and their values for ``images [n, ...]``."""

    def __init__(self, model: nn.Module, layers: Mapping[str, LaneLayer], images: Tensor) -> None:
        self.model, self.layers = copy_sharing_tensors(model), layers  # a forward may set attributes, to proxies too
        _, *others = inspect.signature(model.forward).parameters.values()
        defaults = {other.name: other.default for other in others if other.default is not other.empty}
        with models_code("its calls cannot be traced"), _TRACING:
            tracer = _Tracer({name: self.model.get_submodule(name) for name in layers})
            self.graph = tracer.trace(self.model, concrete_args=defaults)
        self.nodes = list(self.graph.nodes)
        self.images = self.nodes[0]
        self.n = len(images)
        self.in_place = set[fx.Node]()  # calls that change one of their inputs
        # For n and for n - 1 images: sizes that differ between the two come from the number of images.
        self.values, self.fewer = (self._values(batch.clone()) for batch in (images, images[:-1]))
        self.of_images, self.of_lane = set[fx.Node](), set[fx.Node]()  # calls that depend on these
        for node in self.nodes:
            if node is self.images or any(source in self.of_images for source in node.all_input_nodes):
                self.of_images.add(node)
            if self.is_trained(node) or any(source in self.of_lane for source in node.all_input_nodes):
                self.of_lane.add(node)

    def _values(self, images: Tensor) -> dict[fx.Node, Any]:
        """The value of each call; calls that change an input are added to ``in_place``."""
        in_place = self.in_place

        class Recorder(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                inputs = [values[source] for source in n.all_input_nodes if isinstance(values[source], Tensor)]
                versions = [tensor._version for tensor in inputs]
                values[n] = super().run_node(n)
                if [tensor._version for tensor in inputs] != versions:
                    in_place.add(n)
                return values[n]

        values: dict[fx.Node, Any] = {}
        with models_code("its traced calls do not run"), torch.no_grad():
            Recorder(self.model, graph=self.graph).run(images)
        return values

    def is_trained(self, node: fx.Node) -> bool:
        return node.op == "call_module" and node.target in self.layers

    def is_shared(self, node: fx.Node) -> bool:
        """Whether the value is a tensor that depends on the images and on no trained layer."""
        value = self.values.get(node)
        return node in self.of_images and node not in self.of_lane and isinstance(value, Tensor) and value.ndim > 0

    def is_size(self, node: fx.Node) -> bool:
        """Whether the value is a number, or numbers, that depend on the images: sizes of shapes."""
        value = self.values.get(node)
        values = value if isinstance(value, tuple | list) else (value,)
        return node in self.of_images and node.op != "output" and not any(isinstance(v, Tensor) for v in values)

    def is_costly(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return any(parameter.ndim > 1 for parameter in module.parameters())
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        return node.op in ("call_function", "call_method") and any(part in name for part in COSTLY)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding: to 1e-3 of the largest entry."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    close = 1e-3 * float(one.nan_to_num(0, 0, 0).abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-3, atol=close, equal_nan=True)
