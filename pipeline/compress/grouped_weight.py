"""The weight of a grouped convolution, from the compressed weights of its groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeVar

import torch
from torch import Tensor

from pipeline.compress.latents import Codes
from pipeline.compress.packing import Packing, join_parts, select_part
from pipeline.compress.weight import CompressedWeight
from pipeline.compress.weight_parts import WeightOfParts

T = TypeVar("T")
R = TypeVar("R")


def once_each(function: Callable[[T], R], groups: Sequence[T]) -> list[R]:
    """``function`` of each group; in an outline all groups are one object, for which it is called once.

    A group on torch's device ``meta`` takes milliseconds, and depthwise convolutions have a thousand of them.
    """
    made = {key: function(group) for key, group in {id(group): group for group in groups}.items()}
    return [made[id(group)] for group in groups]


def join_groups(groups: Sequence[CompressedWeight]) -> CompressedWeight:
    """The weight of a layer from the weights of its groups; a single group is the weight itself."""
    return groups[0] if len(groups) == 1 else GroupedWeight(groups)


@dataclass(frozen=True)
class GroupedWeight(WeightOfParts):
    """The weight of a grouped convolution: the rows of its groups, one group after the other.

    Packed tensors of the groups are stacked on a new first axis. If their shapes differ between groups, each group has
    tensors of its own, ``group<g>_<kind>``.
    """

    groups: Sequence[CompressedWeight]

    @cached_property
    def shape(self) -> tuple[int, int]:
        return sum(group.shape[0] for group in self.groups), self.groups[0].shape[1]

    @property
    def parts(self) -> Mapping[str, CompressedWeight]:
        return {f"group{g}": group for g, group in enumerate(self.groups)}

    def with_parts(self, parts: Mapping[str, CompressedWeight]) -> Self:
        return type(self)(list(parts.values()))

    def dense(self) -> Tensor:
        return torch.cat([group.dense() for group in self.groups])

    @property
    def macs(self) -> int:
        return sum(group.macs for group in self.groups)

    @property
    def packings(self) -> Mapping[str, Packing]:
        """Those of the groups, which are packed one after the other, or joined by name."""
        return {**self.groups[0].packings, **super().packings}

    def to_tensors(self) -> dict[str, Tensor]:
        return _stacked(once_each(lambda group: group.to_tensors(), self.groups))

    @staticmethod
    def split(tensors: Mapping[str, Tensor], groups: int) -> list[dict[str, Tensor]]:
        """The packed tensors of each group, from those of the layer."""
        separate = [select_part(tensors, f"group{g}") for g in range(groups)]
        if any(separate):
            return separate
        return [{kind: tensor[g] for kind, tensor in tensors.items()} for g in range(groups)]

    def scaled_rows(self, gain: Tensor) -> Self:
        gains = gain.chunk(len(self.groups))
        return type(self)([group.scaled_rows(rows) for group, rows in zip(self.groups, gains, strict=True)])

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors of the groups, stacked; or joined by name if their shapes differ."""
        rows = weight.reshape(len(self.groups), -1, weight.shape[1])
        return _stacked([group.to_trainable(part) for group, part in zip(self.groups, rows, strict=True)])

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self._rows(lambda group: group.project, tensors)

    def unrounded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self._rows(lambda group: group.unrounded, tensors)

    def _rows(
        self, of: Callable[[CompressedWeight], Callable[[Mapping[str, Tensor]], Tensor]], tensors: Mapping[str, Tensor]
    ) -> Tensor:
        """The rows of all groups, each of which a function of the group gives from its tensors."""
        if self._is_stacked(tensors):
            stacked: Tensor = torch.vmap(of(self.groups[0]))(dict(tensors))
            return stacked.flatten(0, 1)
        return torch.cat([of(group)(select_part(tensors, name)) for name, group in self.parts.items()])

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        if self._is_stacked(tensors):
            return torch.vmap(self.groups[0].latent_codes)(dict(tensors))
        return super().latent_codes(tensors)

    def middles(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._is_stacked(tensors):
            return torch.vmap(self.groups[0].middles)(dict(tensors))
        return super().middles(tensors)

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._is_stacked(tensors):
            return torch.vmap(self.groups[0].refreshed)(dict(tensors))
        return super().refreshed(tensors)

    def with_trained(self, tensors: Mapping[str, Tensor]) -> Self:
        parts = self.split(tensors, len(self.groups))
        return type(self)([group.with_trained(part) for group, part in zip(self.groups, parts, strict=True)])

    @staticmethod
    def _is_stacked(tensors: Mapping[str, Tensor]) -> bool:
        return not any(kind.startswith("group0_") for kind in tensors)


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several groups on a new first axis; named ``group<g>_<kind>`` if their shapes differ."""
    shapes = [{kind: tensor.shape for kind, tensor in tensors.items()} for tensors in parts]
    if any(shape != shapes[0] for shape in shapes):
        return join_parts({f"group{g}": tensors for g, tensors in enumerate(parts)})
    return {kind: torch.stack([tensors[kind] for tensors in parts]) for kind in parts[0]}
