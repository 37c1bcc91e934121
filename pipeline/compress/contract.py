"""What a compression is: a config that turns one layer's weight into a ``CompressedWeight``.

Shapes: a weight is ``[out, in]``; a convolution enters as its ``[out, in * kh * kw]`` view, group by group.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.compress.layers import in_groups, naming, replace_weight, shared_copy, sound_matrix
from pipeline.compress.weight import CompressedWeight, DenseWeight, GroupedWeight, join
from pipeline.config.registry import Method
from pipeline.task.contract import Part


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

    # The symmetric root would be this one turned by the eigenvectors, which changes no norm and no best product, and
    # takes a product of [in, in] matrices more.
    @property
    def root(self) -> Tensor:
        """``K [in, in]`` with ``K K^T = C``, damped: ``||M K||`` is the size of ``M x`` over the inputs."""
        values, vectors = self.eigen
        return vectors * values.sqrt()

    @property
    def inverse_root(self) -> Tensor:
        """``K^-1``, ``[in, in]``."""
        values, vectors = self.eigen
        return values.rsqrt()[:, None] * vectors.T


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

    trains: ClassVar[bool] = False
    """Whether it trains the model: what came of it is then kept, and had again by ``restored``."""

    @property
    def needs_statistics(self) -> bool:
        """Whether ``stats`` must hold the layers' second moments."""
        return False

    @property
    def sized_by_shape(self) -> bool:
        """Whether a weight's size follows from its shape alone, whatever its values."""
        return True

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

    def restored(self, model: nn.Module, targets: Sequence[str], tensors: Mapping[str, Tensor]) -> CompressedModel:
        """What ``compress_model`` gave, from the ``state_dict`` of its model; only where the method ``trains``."""
        raise NotImplementedError(f"{type(self).__name__} trains, and does not say how its model is had again")

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
            matrix = sound_matrix(model, name)
            with naming(name):
                weights[name] = self.compress_layer(model.get_submodule(name), matrix, stats.get(name, ()))
            replace_weight(copy, name, weights[name].dense())
        return CompressedModel(copy, weights, model)

    def compress_layer(self, layer: nn.Module, matrix: Tensor, stats: Sequence[LayerStats]) -> CompressedWeight:
        groups = in_groups(layer, matrix)
        own = stats if self.needs_statistics else [None] * len(groups)
        small = join([self.compress(*pair) for pair in zip(groups, own, strict=True)])
        return small if small.bits.total() < 32 * matrix.numel() else DenseWeight(matrix.clone())

    def load_weight(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], groups: int) -> CompressedWeight:
        if tensors.keys() == {"dense"}:
            return DenseWeight(tensors["dense"].reshape(shape))
        if groups == 1:
            return self.from_tensors(tensors, shape)
        part_shape = (shape[0] // groups, shape[1])
        return GroupedWeight([self.from_tensors(part, part_shape) for part in GroupedWeight.split(tensors, groups)])
