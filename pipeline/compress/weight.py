"""What a compressed weight is: something that knows its dense form, its packed bytes, and how to load itself again.

Shapes: a weight is ``[out, in]``; a convolution is its view ``[out, in * kh * kw]``, group by group.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from pipeline.compress.packing import part_of, side_by_side


@dataclass(frozen=True, slots=True, kw_only=True)
class BitCount:
    """Bits that a packed weight takes in a file, by what they are for; each packed tensor counts whole bytes."""

    payload: int
    index: int = 0
    scale: int = 0
    bias: int = 0

    def __add__(self, other: Self) -> "BitCount":
        return BitCount(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        )

    def total(self, *, index: bool = True, scale: bool = True, bias: bool = True) -> int:
        """All bits, or those without positions, scales or biases, as published size formulas count."""
        return self.payload + self.index * index + self.scale * scale + self.bias * bias


class CompressedWeight:
    """A weight in its small form. It knows its dense form, its packed size, and how to load itself again."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the dense form."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The weight as layers compute with it, ``[out, in]``."""

    @property
    @abstractmethod
    def bits(self) -> BitCount:
        """The exact size of ``to_tensors``, counted from shapes alone."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of one product with a vector ``[in]``."""

    @abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """The packed form; ``from_tensors`` of the config reads it back bit for bit."""

    @abstractmethod
    def scaled_rows(self, gain: Tensor) -> Self:
        """The same form and size with row i of the dense form multiplied by ``gain[i]``; ``gain [out]``.

        Raises:
            ValueError: The form has no place for a gain of each row.
        """

    @property
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """``[out, k]`` and ``[k, in]`` where the weight is held as their product; else none."""
        return None

    def __deepcopy__(self, memo: object) -> Self:
        return self  # nothing in it changes


@dataclass(frozen=True)
class DenseWeight(CompressedWeight):
    """The weight as it is, 32 bits each."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def dense(self) -> Tensor:
        return self.weight

    @property
    def bits(self) -> BitCount:
        return BitCount(payload=32 * self.weight.numel())

    @property
    def macs(self) -> int:
        return self.weight.numel()

    def to_tensors(self) -> dict[str, Tensor]:
        return {"dense": self.weight.float()}

    def scaled_rows(self, gain: Tensor) -> Self:
        return type(self)(self.weight * gain.to(self.weight)[:, None])


def join(groups: Sequence[CompressedWeight]) -> CompressedWeight:
    """One weight for a layer of one or many groups."""
    return groups[0] if len(groups) == 1 else GroupedWeight(groups)


class GroupedWeight(CompressedWeight):
    """The weights of a grouped convolution, one above the other.

    Their packed tensors lie on a leading axis; where the groups differ in size, side by side as ``group<g>_<kind>``.
    """

    def __init__(self, groups: Sequence[CompressedWeight]) -> None:
        self.groups = groups

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.groups[0].shape
        return len(self.groups) * rows, columns

    def dense(self) -> Tensor:
        return torch.cat([group.dense() for group in self.groups])

    @property
    def bits(self) -> BitCount:
        return sum((group.bits for group in self.groups), BitCount(payload=0))

    @property
    def macs(self) -> int:
        return sum(group.macs for group in self.groups)

    def to_tensors(self) -> dict[str, Tensor]:
        packed = [group.to_tensors() for group in self.groups]
        shapes = [{key: tensor.shape for key, tensor in part.items()} for part in packed]
        if any(shape != shapes[0] for shape in shapes):
            return side_by_side({f"group{g}": part for g, part in enumerate(packed)})
        return {key: torch.stack([part[key] for part in packed]) for key in packed[0]}

    @staticmethod
    def split(tensors: Mapping[str, Tensor], groups: int) -> list[dict[str, Tensor]]:
        """What ``to_tensors`` of each group gave."""
        apart = [part_of(tensors, f"group{g}") for g in range(groups)]
        return apart if any(apart) else [{key: tensor[g] for key, tensor in tensors.items()} for g in range(groups)]

    def scaled_rows(self, gain: Tensor) -> Self:
        gains = torch.split(gain, [group.shape[0] for group in self.groups])
        return type(self)([group.scaled_rows(own) for group, own in zip(self.groups, gains, strict=True)])
