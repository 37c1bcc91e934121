"""Lanes: trials that train together over one frozen model, each with its own trained tensors.

Legend: ``T`` lanes in all, ``n`` images. A tensor that differs between lanes holds the images of lane 0, then those of
lane 1, and so on: ``[T * n, ...]``. A tensor that all lanes share is ``[n, ...]``, and is computed once.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.adapt.contract import Adapter


@dataclass(frozen=True, eq=False)
class Stack:
    """The trained tensors of one layer, of lanes whose tensors have the same shapes.

    Args:
        parameters: By name within the layer, each stacked over the lanes on its first axis.
        alpha: Alpha of each lane, ``[lanes]``.
    """

    parameters: Mapping[str, Tensor]
    alpha: Tensor

    def __len__(self) -> int:
        return len(self.alpha)


class Lanes:
    """All lanes of a cohort, in stacks of equal shapes that follow one another.

    Args:
        stacks: For each stack its parameters by full name, stacked over its lanes on the first axis, and the lanes'
            alphas.
    """

    def __init__(self, stacks: Sequence[tuple[Mapping[str, Tensor], Sequence[float]]]) -> None:
        self.count = sum(len(alphas) for _, alphas in stacks)
        self._layers: dict[str, list[Stack]] = {}
        for parameters, alphas in stacks:
            by_layer: dict[str, dict[str, Tensor]] = {}
            for key, tensor in parameters.items():
                layer, _, name = key.rpartition(".")
                by_layer.setdefault(layer, {})[name] = tensor
            for layer, tensors in by_layer.items():
                alpha = torch.tensor(alphas).to(next(iter(tensors.values())))
                self._layers.setdefault(layer, []).append(Stack(tensors, alpha))

    @property
    def layers(self) -> list[str]:
        """Names of the layers with trained tensors."""
        return list(self._layers)

    def of(self, layer: str) -> list[Stack]:
        """The stacks of one layer, in the same order for every layer."""
        return self._layers[layer]

    def one_by_one(self) -> Iterator["Lanes"]:
        """A ``Lanes`` for each single lane, whose tensors are views of these."""
        for number, stack in enumerate(next(iter(self._layers.values()))):
            for lane in range(len(stack)):
                single = slice(lane, lane + 1)
                parameters = {
                    f"{layer}.{name}" if layer else name: tensor[single]
                    for layer, stacks in self._layers.items()
                    for name, tensor in stacks[number].parameters.items()
                }
                yield Lanes([(parameters, stack.alpha[single].tolist())])


def repeat_for_lanes(x: Tensor, count: int) -> Tensor:
    """``[n, ...] -> [count * n, ...]``, always a copy, so that a layer may change it in place."""
    return x.repeat(count, *[1] * (x.ndim - 1))


class LaneLayer(nn.Module):
    """A layer in two parts: a frozen one, and what each lane adds to it.

    Args:
        frozen: The part that is not trained. For an input that all trials share, its output is computed once.
    """

    def __init__(self, frozen: nn.Module) -> None:
        super().__init__()
        self.frozen = frozen

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """The output of all lanes, ``[T * n, ...]``.

        Args:
            x: The input: ``[n, ...]`` if all lanes share it, otherwise ``[T * n, ...]``.
            y: ``frozen(x)`` of a shared input, ``[n, ...]``; ``None`` if the lanes have separate inputs.
            stacks: The lanes.
        """


class Adapted(nn.Module):
    """A lane layer as a layer of a whole model, ``[T * n, ...] -> [T * n, ...]``.

    Args:
        layer: The lane layer.
        stacks: Its lanes, whose tensors become parameters of this module.
    """

    def __init__(self, layer: LaneLayer, stacks: Sequence[Stack]) -> None:
        super().__init__()
        self.layer = layer
        self._stacks = list(stacks)
        for number, stack in enumerate(self._stacks):
            for name, tensor in stack.parameters.items():
                parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
                self.register_parameter(f"{name}_{number}" if number else name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x, None, self._stacks)
        return y


class SeparateLayer(LaneLayer):
    """Any layer, computed for each lane separately with that lane's parameters.

    Args:
        base: The layer, called with one tensor.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__(nn.Identity())  # no part of the output is the same in all trials
        self._base = base

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """``[n or T * n, ...] -> [T * n, ...]``."""
        T, start, outputs = sum(map(len, stacks)), 0, []
        shared = y is not None
        inputs = x if shared else torch.unflatten(x, 0, (T, -1))
        for stack in stacks:
            stack_inputs = inputs if shared else inputs[start : start + len(stack)]
            start += len(stack)
            lane_forward = torch.vmap(self.lane_forward, (0, None if shared else 0))
            outputs.append(lane_forward(stack.parameters, stack_inputs).flatten(0, 1))
        return joined(outputs)

    def lane_forward(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The output ``[n, ...]`` of one lane for its input ``[n, ...]``."""
        y: Tensor = with_parameters(self._base, parameters)(x)
        return y


def joined(outputs: list[Tensor]) -> Tensor:
    """The outputs of all stacks as one tensor, without a copy if there is only one."""
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def with_parameters(layer: nn.Module, tensors: Mapping[str, Tensor | None]) -> nn.Module:
    """A copy of a layer with other parameters; unlike ``functional_call`` it is safe if threads share the layer."""
    other = copy.copy(layer)
    other.__dict__["_parameters"] = {**layer._parameters, **tensors}
    return other


def is_container(module: nn.Module) -> bool:
    """Whether a module contains others, so that it cannot be replaced when a parameter of its own is trained."""
    return any(True for _ in module.children())


def attach(model: nn.Module, adapter: "Adapter", lanes: Lanes) -> None:
    """Let ``model`` compute with ``lanes``, in place: its batch then is ``[T * n, ...]``.

    Args:
        model: A copy of the compressed model, whose layers are replaced.
        adapter: What is trained.
        lanes: The lanes; only one if it trains parameters of containers (``container_parameters``).
    """
    for name in lanes.layers:
        stacks, module = lanes.of(name), model.get_submodule(name)
        if is_container(module):
            for key, tensor in stacks[0].parameters.items():
                del module._parameters[key]
                setattr(module, key, tensor[0])
        else:
            model.set_submodule(name, Adapted(adapter.layer(module, stacks[0].parameters.keys()), stacks))


def container_parameters(model: nn.Module, lanes: Lanes) -> list[str]:
    """Names of trained parameters that belong to containers, such as class tokens and positional embeddings."""
    return [
        f"{name}.{key}" if name else key
        for name in lanes.layers
        if is_container(model.get_submodule(name))
        for key in lanes.of(name)[0].parameters
    ]
