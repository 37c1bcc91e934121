"""Lanes: trials that train together over one frozen model, each with its own trained tensors.

Legend: ``T`` lanes in all, ``n`` images. A tensor that differs between lanes holds the images of lane 0, then those of
lane 1, and so on: ``[T * n, ...]``. A tensor that all lanes share is ``[n, ...]``, and is computed once.
"""

import copy
import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.adapt.contract import Adapter
    from pipeline.compress.weight import CompressedWeight


_Found = TypeVar("_Found")


@dataclass(frozen=True, eq=False)
class Stack:
    """The trained tensors of one layer, of lanes whose tensors have the same shapes."""

    parameters: Mapping[str, Tensor]  # by name within the layer, each stacked over the lanes on its first axis
    alpha: Tensor  # of each lane, [lanes]

    def __len__(self) -> int:
        return len(self.alpha)


class Lanes:
    """All lanes of a cohort, in stacks of equal shapes; ``layers`` holds those of each layer, always in the same order.

    They are made from each stack's parameters by full name, stacked on the first axis, and its lanes' alphas.
    """

    def __init__(self, stacks: Sequence[tuple[Mapping[str, Tensor], Sequence[float]]]) -> None:
        self._stacks = stacks
        self.count = sum(len(alphas) for _, alphas in stacks)
        self.layers: dict[str, list[Stack]] = {}
        for parameters, alphas in stacks:
            by_layer: dict[str, dict[str, Tensor]] = {}
            for key, tensor in parameters.items():
                layer, _, name = key.rpartition(".")
                by_layer.setdefault(layer, {})[name] = tensor
            for layer, tensors in by_layer.items():
                alpha = torch.tensor(alphas).to(next(t for t in tensors.values() if t.is_floating_point()))
                self.layers.setdefault(layer, []).append(Stack(tensors, alpha))

    def one_by_one(self) -> Iterator["Lanes"]:
        """A ``Lanes`` for each single lane, whose tensors are views of these."""
        for parameters, alphas in self._stacks:
            for lane, alpha in enumerate(alphas):
                yield Lanes([({name: tensor[lane : lane + 1] for name, tensor in parameters.items()}, [alpha])])


def repeat_for_lanes(x: Tensor, count: int) -> Tensor:
    """``[n, ...] -> [count * n, ...]``, always a copy, so that a layer may change it in place.

    Images stay as they are laid out, which ``x.repeat`` would not keep.
    """
    return torch.cat([x] * count)


class LaneLayer(nn.Module):
    """A layer in two parts: a ``frozen`` one, computed once for an input that all lanes share, and what a lane adds."""

    def __init__(self, frozen: nn.Module) -> None:
        super().__init__()
        self.frozen = frozen

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """The output of all lanes, ``[T * n, ...]``.

        ``x`` is ``[T * n, ...]`` and ``y`` is ``None``; or all lanes share ``x [n, ...]``, and ``y`` is ``frozen(x)``.
        """


class Adapted(nn.Module):
    """A lane layer as a layer of a whole model, ``[T * n, ...] -> [T * n, ...]``; its lanes' tensors are parameters."""

    def __init__(self, layer: LaneLayer, stacks: Sequence[Stack]) -> None:
        super().__init__()
        self.layer = layer
        self._stacks = list(stacks)
        for number, stack in enumerate(self._stacks):
            for name, tensor in stack.parameters.items():
                parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
                self.register_parameter(f"{name}_{number}" if number else name, parameter)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch calls it
        y: Tensor = self.layer(input, None, self._stacks)
        return y


class SeparateLayer(LaneLayer):
    """Any layer that is called with one tensor, computed for each lane separately with that lane's parameters."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(nn.Identity())  # no part of the output is the same in all trials
        self._base = base

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        parts = [x] * len(stacks) if y is not None else split_by_stack(x, stacks)
        return joined([self._of_stack(stack, part, y is not None) for stack, part in zip(stacks, parts, strict=True)])

    def _of_stack(self, stack: Stack, x: Tensor, shared: bool) -> Tensor:
        """The output of the lanes of a stack, for an input that they share, or one that has the images of each."""
        if len(stack) == 1:
            return self.lane_forward(of_lone_lane(stack.parameters), stack.alpha[0], x)
        of_lanes = torch.vmap(self.lane_forward, (0, 0, None if shared else 0))
        inputs = x if shared else torch.unflatten(x, 0, (len(stack), -1))
        return of_lanes(stack.parameters, stack.alpha, inputs).flatten(0, 1)

    def lane_forward(self, parameters: Mapping[str, Tensor], alpha: Tensor, x: Tensor) -> Tensor:
        """The output ``[n, ...]`` of one lane for its input ``[n, ...]``; ``alpha`` is a tensor without axes."""
        y: Tensor = with_parameters(self._base, parameters)(x)
        return y


def map_lanes(function: Callable[[Mapping[str, Tensor]], _Found], tensors: Mapping[str, Tensor]) -> _Found:
    """``function`` of the tensors of each lane, from those of all, ``[T, ...]``.

    What is found has an axis of lanes too, except for a lone one. That is called without ``torch.vmap``, which takes a
    millisecond for each layer with gradients of its own.
    """
    lone = len(next(iter(tensors.values()))) == 1
    return function(of_lone_lane(tensors)) if lone else torch.vmap(function)(dict(tensors))


def of_lone_lane(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``[1, ...] -> [...]``, as views.

    The gradient of ``tensor[0]`` is copied into zeros, 120 us for 200,000 numbers on one core; one of a view is not.
    """
    return {name: tensor.squeeze(0) for name, tensor in tensors.items()}


def split_by_stack(x: Tensor, stacks: Sequence[Stack]) -> Sequence[Tensor]:
    """The part of each stack in ``x [T * n, ...]``; of a single one ``x`` itself, whose gradient needs no copy."""
    if len(stacks) == 1:
        return [x]
    n = len(x) // sum(map(len, stacks))
    return torch.split(x, [len(stack) * n for stack in stacks])


def joined(outputs: list[Tensor]) -> Tensor:
    """The outputs of all stacks as one tensor, without a copy of a single one."""
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def with_parameters(layer: nn.Module, tensors: Mapping[str, Tensor | None]) -> nn.Module:
    """A copy of a layer with other parameters; unlike ``functional_call`` it is safe if threads share the layer."""
    other = copy.copy(layer)
    other.__dict__["_parameters"] = {**layer._parameters, **tensors}
    return other


def _is_container(module: nn.Module) -> bool:
    """Whether a module contains others, so that it cannot be replaced when a parameter of its own is trained."""
    return any(True for _ in module.children())


class FormOnly(Tensor):
    """Stands for a parameter of a layer that is trained: what a model may read of it.

    Its shape, dtype and device can be read. Its values differ between lanes, so any other use raises a
    ``RuntimeError`` with the parameter's name.
    """

    _is_param = True  # what `isinstance(..., nn.Parameter)` asks for
    key: str
    _GETTERS = (
        "shape",
        "dtype",
        "device",
        "layout",
        "ndim",
        "is_cuda",
        "is_meta",
        "is_leaf",
        "is_sparse",
        "itemsize",
        "grad",
    )
    _METHODS = ("size", "dim", "ndimension", "numel", "nelement", "element_size", "is_floating_point", "is_complex")
    _NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
    _LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
    _FORM: ClassVar[set[Any]] = {
        *(getattr(Tensor, name).__get__ for name in (*_GETTERS, "grad_fn", "requires_grad")),
        *(getattr(Tensor, name) for name in (*_METHODS, *_NEW, "get_device", "__len__")),
        *(getattr(torch, name) for name in (*_LIKE, "numel", "is_floating_point", "is_complex", "result_type")),
    }
    METHODS_OF_ANOTHER: ClassVar[dict[str, Any]] = {
        name: getattr(Tensor, name) for name in ("to", "type_as", "view_as", "expand_as", "reshape_as")
    }
    """Methods of another tensor that read the form alone of this one."""

    @classmethod
    def of(cls, parameter: Tensor, key: str) -> Self:
        """The form of a parameter whose name is ``key``."""
        number = math.nan if parameter.is_floating_point() or parameter.is_complex() else 0
        form = parameter.detach().new_full((), number).expand(parameter.shape).as_subclass(cls)
        form.key = key
        return form

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.detach, Tensor.data.__get__):  # type: ignore[attr-defined]
            return args[0]
        if func in cls._FORM or (func in cls.METHODS_OF_ANOTHER.values() and not isinstance(args[0], cls)):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs or {})
        raise cls.read((*args, *(kwargs or {}).values()), getattr(func, "__name__", str(func)))

    @classmethod
    def read(cls, operands: Sequence[Any], function: str) -> RuntimeError:
        """The error of a function that reads the values of one of its operands."""
        key = next((operand.key for operand in operands if isinstance(operand, cls)), "a trained layer")
        return RuntimeError(f"the values of '{key}' are read by {function.strip('_')}")


def attach(
    model: nn.Module, adapter: "Adapter", lanes: Lanes, weights: Mapping[str, "CompressedWeight"] | None = None
) -> None:
    """Let a model compute with ``lanes``, in place, on ``[T * n, ...]``; one lane if there are container parameters.

    ``weights`` are those of the compressed model, by layer; adapters that train no codes do not need them.
    A layer stays the object that it is, with its class and attributes, because the model's code may ask for them.
    """
    for name, stacks in lanes.layers.items():
        module = model.get_submodule(name)
        if _is_container(module):
            for key, tensor in stacks[0].parameters.items():
                del module._parameters[key]
                setattr(module, key, tensor[0])
        else:
            weight = (weights or {}).get(name)
            adapted = Adapted(adapter.layer(copy.copy(module), stacks[0].parameters.keys(), weight), stacks)
            module.__dict__ |= {
                "forward": adapted.forward,
                "_parameters": forms(module, name),
                "_forward_hooks": OrderedDict(),  # the copy calls them
                "_forward_pre_hooks": OrderedDict(),
            }


def forms(module: nn.Module, name: str) -> dict[str, FormOnly | None]:
    """What stands for each parameter of a trained layer."""
    return {
        key: None if parameter is None else FormOnly.of(parameter, f"{name}.{key}")
        for key, parameter in module._parameters.items()
    }


def container_parameters(model: nn.Module, lanes: Lanes) -> list[str]:
    """Names of trained parameters that belong to containers, such as class tokens and positional embeddings."""
    return [
        f"{name}.{key}" if name else key
        for name, stacks in lanes.layers.items()
        if _is_container(model.get_submodule(name))
        for key in stacks[0].parameters
    ]
