"""What a compression is: a config that turns one layer's weight into a ``CompressedWeight``.

Shapes: a weight is ``[out, in]``; a convolution enters as its ``[out, in * kh * kw]`` view, group by group.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn

from pipeline.compress.layers import group_count, naming, replace_weight, shared_copy, weight_matrix
from pipeline.errors import IntegrityError
from pipeline.registry import Method
from pipeline.task.contract import Part


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


@dataclass(frozen=True)
class LayerStats:
    """What a layer's inputs look like, from training data alone.

    Args:
        second_moment: ``C = E[x x^T]``, uncentred, ``[in, in]``, float64.
    """

    second_moment: Tensor

    @property
    def ridge(self) -> Tensor:
        """``1e-6 mean(diag C)``, the least eigenvalue that a damped moment can have."""
        return 1e-6 * self.second_moment.diagonal().mean().clamp_min(1e-12)

    def damped(self) -> Tensor:
        """``C + ridge I``, which has an inverse where some inputs are always zero (dead pixels)."""
        return self.second_moment + self.ridge * torch.eye(len(self.second_moment), dtype=self.second_moment.dtype)

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``[in]``, ascending and positive, and eigenvectors ``[in, in]`` (columns) of ``damped()``."""
        values, vectors = torch.linalg.eigh(self.damped().double())
        return values.clamp_min(self.ridge), vectors

    @cached_property
    def root(self) -> Tensor:
        """``C^(1/2)``, damped, symmetric, ``[in, in]``."""
        values, vectors = self.eigen
        return vectors * values.sqrt() @ vectors.T

    @cached_property
    def inverse_root(self) -> Tensor:
        """``C^(-1/2)``, damped, symmetric, ``[in, in]``."""
        values, vectors = self.eigen
        return vectors * values.rsqrt() @ vectors.T


@dataclass(frozen=True)
class CompressedModel:
    """A model whose target layers compute with dense forms of compressed weights; frozen, in eval mode.

    Args:
        model: The compressed model.
        weights: The compressed weight of each target layer.
        reference: What it comes nearest to: the uncompressed model or, where a method changed the architecture, the
            model of the same layers that its ``weights`` stand for. Residuals and statistics are those of its layers.
    """

    model: nn.Module
    weights: Mapping[str, CompressedWeight]
    reference: nn.Module


class Compression(Method):
    """A method that compresses whole models."""

    @property
    def needs_statistics(self) -> bool:
        """Whether ``stats`` must hold the layers' second moments."""
        return False

    @abstractmethod
    def compress_model(
        self,
        model: nn.Module,
        targets: Sequence[str],
        stats: Mapping[str, Sequence[LayerStats]],
        train: Part | None = None,
    ) -> CompressedModel:
        """Compress the target layers of a copy of ``model``; all other tensors are shared with it.

        Args:
            model: The trained model; it stays as it is.
            targets: Names of Linear and Conv2d layers.
            stats: Statistics of each target's inputs, one for each group; read only if ``needs_statistics``.
            train: The training part, for methods that train or ask for gradients.
        """

    @abstractmethod
    def compress_layer(self, layer: nn.Module, matrix: Tensor, stats: Sequence[LayerStats]) -> CompressedWeight:
        """Compress ``matrix [out, in]`` for the place of one layer, for starts that move the base.

        Args:
            layer: The layer of ``CompressedModel.reference``.
            matrix: What stands in its place.
            stats: Statistics of its inputs, one for each group; read only if ``needs_statistics``.
        """

    def reshape(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Give the bare architecture ``model`` the shapes of a packed model, in place, where a method changes them.

        Args:
            model: The uncompressed architecture; its weights mean nothing.
            tensors: All tensors of the packed model.
        """

    @abstractmethod
    def load_weight(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], groups: int) -> CompressedWeight:
        """Load what ``to_tensors`` gave for a layer of ``shape`` and so many groups.

        Raises:
            KeyError, ValueError, IndexError, RuntimeError: The tensors are not those of such a layer.
        """


class LayerCompression(Compression):
    """A method that compresses one weight matrix; here it is lifted to whole models.

    A layer that would not shrink stays dense.
    """

    @abstractmethod
    def compress(self, weight: Tensor, stats: LayerStats | None) -> CompressedWeight:
        """Compress ``weight [out, in]``."""

    @abstractmethod
    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CompressedWeight:
        """Load what ``CompressedWeight.to_tensors`` gave for a weight of ``shape``."""

    def compress_model(
        self,
        model: nn.Module,
        targets: Sequence[str],
        stats: Mapping[str, Sequence[LayerStats]],
        train: Part | None = None,
    ) -> CompressedModel:
        copy, weights = shared_copy(model), {}
        for name in targets:
            layer = model.get_submodule(name)
            matrix = weight_matrix(layer)
            if not matrix.isfinite().all():
                raise IntegrityError(f"the weight of layer '{name}' holds NaN or infinite values; load sound weights")
            with naming(name):
                weights[name] = self.compress_layer(layer, matrix, stats.get(name, ()))
            replace_weight(copy, name, weights[name].dense())
        return CompressedModel(copy, weights, model)

    def compress_layer(self, layer: nn.Module, matrix: Tensor, stats: Sequence[LayerStats]) -> CompressedWeight:
        groups = matrix.reshape(group_count(layer), -1, matrix.shape[1])
        own = stats if self.needs_statistics else [None] * len(groups)
        small = join([self.compress(*pair) for pair in zip(groups, own, strict=True)])
        return small if small.bits.total() < 32 * matrix.numel() else DenseWeight(matrix.clone())

    def load_weight(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], groups: int) -> CompressedWeight:
        if tensors.keys() == {"dense"}:
            return DenseWeight(tensors["dense"].reshape(shape))
        if groups == 1:
            return self.from_tensors(tensors, shape)
        part_shape = (shape[0] // groups, shape[1])
        parts = [{key: tensor[g] for key, tensor in tensors.items()} for g in range(groups)]
        return GroupedWeight([self.from_tensors(part, part_shape) for part in parts])


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
        return replace(self, weight=self.weight * gain.to(self.weight)[:, None])


def join(groups: Sequence[CompressedWeight]) -> CompressedWeight:
    """One weight for a layer of one or many groups."""
    return groups[0] if len(groups) == 1 else GroupedWeight(groups)


class GroupedWeight(CompressedWeight):
    """The weights of a grouped convolution, one above the other; their packed tensors on a leading axis."""

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
        return {key: torch.stack([part[key] for part in packed]) for key in packed[0]}

    def scaled_rows(self, gain: Tensor) -> Self:
        gains = torch.split(gain, [group.shape[0] for group in self.groups])
        return type(self)([group.scaled_rows(own) for group, own in zip(self.groups, gains, strict=True)])
