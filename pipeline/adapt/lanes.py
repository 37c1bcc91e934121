"""Lanes: trials that train together, each with tensors of its own, over one frozen model.

Legend: ``T`` lanes in all, ``n`` images. What differs by lane has the lanes' images one after the other,
``[T * n, ...]``; what does not is ``[n, ...]``, and is computed once for all lanes.
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
    """What lanes of like shapes train in one layer.

    Args:
        parameters: By name within the layer, each with a leading axis of these lanes.
        alpha: Alpha of each of them, ``[lanes]``.
    """

    parameters: Mapping[str, Tensor]
    alpha: Tensor

    def __len__(self) -> int:
        return len(self.alpha)


class Lanes:
    """All lanes of a cohort, as layers find them: stacks of like shapes, one beside the other.

    Args:
        stacks: Of each stack its parameters by full name, with a leading axis of its lanes, and its alphas.
    """

    def __init__(self, stacks: Sequence[tuple[Mapping[str, Tensor], Sequence[float]]]) -> None:
        self.count = sum(len(alphas) for _, alphas in stacks)
        self._layers: dict[str, list[Stack]] = {}
        for parameters, alphas in stacks:
            for layer, own in by_layer(parameters).items():
                alpha = torch.tensor(alphas).to(next(iter(own.values())))
                self._layers.setdefault(layer, []).append(Stack(own, alpha))

    @property
    def layers(self) -> list[str]:
        return list(self._layers)

    def of(self, layer: str) -> list[Stack]:
        """The stacks of one layer; those of every layer stand in the same order."""
        return self._layers[layer]

    def each(self) -> Iterator["Lanes"]:
        """Each lane alone, its tensors views of these."""
        for stack, own in enumerate(next(iter(self._layers.values()))):
            for lane in range(len(own)):
                one = slice(lane, lane + 1)
                parameters = {
                    f"{layer}.{name}" if layer else name: tensor[one]
                    for layer, stacks in self._layers.items()
                    for name, tensor in stacks[stack].parameters.items()
                }
                yield Lanes([(parameters, own.alpha[one].tolist())])


def by_layer(parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """``{"fc1.lora_A": A}`` -> ``{"fc1": {"lora_A": A}}``."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in parameters.items():
        layer, _, name = key.rpartition(".")
        layers.setdefault(layer, {})[name] = tensor
    return layers


def each_lane(x: Tensor, count: int) -> Tensor:
    """``[n, ...] -> [T * n, ...]``, a copy: whoever computes in place does so in its own memory."""
    return x.repeat(count, *[1] * (x.ndim - 1))


class LaneLayer(nn.Module):
    """A layer in two parts: what is frozen, and what the lanes make of it.

    Args:
        frozen: The part that trains nothing; where its input is the same in every trial, so is its output.
    """

    def __init__(self, frozen: nn.Module) -> None:
        super().__init__()
        self.frozen = frozen

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """The layer's output of every lane, ``[T * n, ...]``.

        Args:
            x: The layer's input: ``[n, ...]`` where all lanes share it, ``[T * n, ...]`` where each has its own.
            y: ``frozen(x)`` of a shared input, ``[n, ...]``; none where each lane has its own.
            stacks: The lanes.
        """


class Adapted(nn.Module):
    """A lane layer in the place of a layer of a whole model; its input is ``[T * n, ...]``.

    Args:
        layer: How it computes.
        stacks: Its lanes.
    """

    def __init__(self, layer: LaneLayer, stacks: Sequence[Stack]) -> None:
        super().__init__()
        self.layer = layer
        self._stacks = list(stacks)
        for place, stack in enumerate(self._stacks):
            for name, tensor in stack.parameters.items():
                parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
                self.register_parameter(f"{name}_{place}" if place else name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x, None, self._stacks)
        return y


class SeparateLayer(LaneLayer):
    """Any layer, each lane with parameters of its own in the place of those that are trained.

    Args:
        base: The layer, called with one tensor.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__(nn.Identity())  # nothing of it is the same in every trial
        self._base = base

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        """``[n or T * n, ...] -> [T * n, ...]``."""
        T, start, outputs = sum(map(len, stacks)), 0, []
        by_lane = x if y is not None else torch.unflatten(x, 0, (T, -1))
        for stack in stacks:
            own = by_lane if y is not None else by_lane[start : start + len(stack)]
            start += len(stack)
            in_dims = (0, None if y is not None else 0)
            outputs.append(torch.vmap(self._one, in_dims)(stack.parameters, own).flatten(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _one(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = with_parameters(self._base, parameters)(x)
        return y


def with_parameters(layer: nn.Module, tensors: Mapping[str, Tensor | None]) -> nn.Module:
    """The same layer with other parameters; unlike ``functional_call``, safe where threads share the layer."""
    other = copy.copy(layer)
    other.__dict__["_parameters"] = {**layer._parameters, **tensors}
    return other


def is_container(module: nn.Module) -> bool:
    """Whether a module holds others, so that it is not replaced as a whole when a parameter of its own is trained."""
    return any(True for _ in module.children())


def attach(model: nn.Module, adapter: "Adapter", lanes: Lanes) -> None:
    """Let ``model`` compute with ``lanes``: its batch holds lane 0's images, then lane 1's, and so on.

    Args:
        model: A copy of the compressed model that may be taken apart.
        adapter: What is trained.
        lanes: The lanes; a single one where it trains what no single layer holds (``held_apart``).
    """
    for name in lanes.layers:
        stacks, module = lanes.of(name), model.get_submodule(name)
        if is_container(module):
            for key, tensor in stacks[0].parameters.items():
                del module._parameters[key]
                setattr(module, key, tensor[0])
        else:
            model.set_submodule(name, Adapted(adapter.layer(module, stacks[0].parameters.keys()), stacks))


def held_apart(model: nn.Module, lanes: Lanes) -> list[str]:
    """Names of trained parameters that no single layer holds: class tokens, positional embeddings."""
    return [
        f"{name}.{key}" if name else key
        for name in lanes.layers
        if is_container(model.get_submodule(name))
        for key in lanes.of(name)[0].parameters
    ]
