"""What the structured prunings share: how many channels remain, and how pruned models are stored and loaded."""

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.compress.channels import fit_shapes, prune_channels
from pipeline.compress.contract import CompressedModel, Compression, ModelStats
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape, sound_matrix, weight_matrix
from pipeline.compress.weight import DenseWeight
from pipeline.errors import SpecError
from pipeline.task.contract import Part
from pipeline.task.tensor_cache import restore_state


class StructuredPruning(Compression):
    """Output channels of the target layers are removed with everything that depends on them; the rest stays dense.

    Attention of timm loses whole heads. The classifier, and layers that cannot lose channels, stay whole.
    """

    keep: float = Field(0.5, gt=0, le=1)
    """``c``, the share of a layer's output channels that remain; at least one does."""
    rounding: Literal["ceil", "int"] = "ceil"
    """How ``c * out`` is rounded to a number of channels: up, or down."""

    def kept(self, channels: int) -> int:
        exact = round(self.keep * channels, 9)  # 0.29 * 100 must be 29
        return max(1, math.ceil(exact) if self.rounding == "ceil" else int(exact))

    @abstractmethod
    def pruned(self, model: nn.Module, targets: Sequence[str], train: Part, noise: Tensor) -> nn.Module:
        """A copy of ``model`` without some output channels of the target layers; frozen, in eval mode.

        ``noise`` is a batch of one image of noise, like the training images, on the model's device.
        """

    def compress_model(
        self, model: nn.Module, targets: Sequence[str], stats: ModelStats, train: Part | None = None
    ) -> CompressedModel:
        train, noise = self._noise(model, targets, train)
        return _as_compressed(self.pruned(model, targets, train, noise), targets)

    def outline(self, model: nn.Module, targets: Sequence[str], train: Part | None = None) -> CompressedModel:
        """The model without as many channels, whatever their scores."""
        _, noise = self._noise(model, targets, train)
        scores = {name: torch.ones(matrix_shape(model.get_submodule(name))[0]) for name in targets}
        pruned = prune_channels(model, targets, noise, scores, lambda _, units: self.kept(units))
        return _as_compressed(pruned.model, targets)

    def _noise(self, model: nn.Module, targets: Sequence[str], train: Part | None) -> tuple[Part, Tensor]:
        """The training part, and an image of noise like those in it; the weights of the targets are sound."""
        if train is None:
            raise SpecError(f"{self.name} runs training images through the model; give compress_model the part train=")
        for name in targets:
            sound_matrix(model, name)
        images, _ = next(iter(train.batches(1, torch.tensor([0]))))
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
        return train, noise.to(next(model.parameters()).device)

    def reshape(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        fit_shapes(model, tensors)

    def restored(self, model: nn.Module, targets: Sequence[str], tensors: Mapping[str, Tensor]) -> CompressedModel:
        pruned = copy.deepcopy(model)
        fit_shapes(pruned, tensors)
        restore_state(pruned, tensors)
        return _as_compressed(pruned.eval().requires_grad_(False), targets)


def _as_compressed(model: nn.Module, targets: Sequence[str]) -> CompressedModel:
    """A pruned model as a ``CompressedModel``; the remaining weights are exact, so it is its own reference."""
    weights = {name: DenseWeight(weight_matrix(model.get_submodule(name))) for name in targets}
    return CompressedModel(model, weights, copy_sharing_tensors(model))
