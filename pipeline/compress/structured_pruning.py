"""What the structured prunings share: how many channels remain, and how pruned models are stored and loaded."""

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.compress.channel_shapes import fit_shapes
from pipeline.compress.channels import PrunedModel, prune_channels
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape, sound_matrix, weight_matrix
from pipeline.compress.model_stats import ModelStats
from pipeline.compress.weight import CompressedWeight, DenseWeight
from pipeline.errors import SpecError
from pipeline.task.contract import Part
from pipeline.task.tensor_cache import restore_state
from pipeline.wording import counted, few

logger = logging.getLogger(__name__)


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

    def prune(self, model: nn.Module, noise: Tensor, scores: Mapping[str, Tensor]) -> PrunedModel:
        """Remove the channels of lowest scores, ``[out]`` by layer, in a copy of ``model``.

        Raises:
            SpecError: Not one channel can be removed; the message says why, by layer.
        """
        pruned = prune_channels(model, list(scores), noise, scores, lambda _, units: self.kept(units))
        if self.keep < 1 and not pruned.rows:
            raise SpecError(
                f"{self.name} with keep = {self.keep} can remove no output channel of the targets: "
                f"{_reasons(pruned.whole)}; choose other targets, another keep, or another compression"
            )
        return pruned

    def compress_model(
        self, model: nn.Module, targets: Sequence[str], stats: ModelStats, train: Part | None = None
    ) -> CompressedModel:
        train, noise = self._noise(model, targets, train)
        return self._as_compressed(self.pruned(model, targets, train, noise), model, targets)

    def outline(self, model: nn.Module, targets: Sequence[str], train: Part | None = None) -> CompressedModel:
        """The model without as many channels, whatever their scores; the log says why layers keep all of theirs."""
        _, noise = self._noise(model, targets, train)
        scores = {name: torch.ones(matrix_shape(model.get_submodule(name))[0]) for name in targets}
        pruned = self.prune(model, noise, scores)
        if pruned.whole:
            logger.info(f"{self.name} keeps all output channels of {_reasons(pruned.whole)}")
        return self._as_compressed(pruned.model, model, targets)

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
        return self._as_compressed(pruned.eval().requires_grad_(False), model, targets)

    def _as_compressed(self, pruned: nn.Module, original: nn.Module, targets: Sequence[str]) -> CompressedModel:
        """A pruned model as a ``CompressedModel``; the remaining weights are exact, so it is its own reference."""
        weights = {name: DenseWeight(weight_matrix(pruned.get_submodule(name))) for name in targets}
        notes = (self._note(weights, original),) if self.keep < 1 else ()
        return CompressedModel(pruned, weights, copy_sharing_tensors(pruned), notes=notes)

    def _note(self, weights: Mapping[str, CompressedWeight], original: nn.Module) -> str:
        """The share of channels that remains, and which layers stay whole."""
        before = {name: len(weight_matrix(original.get_submodule(name))) for name in weights}
        left = {name: weight.shape[0] for name, weight in weights.items()}
        whole = [name for name in weights if left[name] == before[name]]
        kept, channels = (sum(counts[name] for name in weights if name not in whole) for counts in (left, before))
        share = f"{kept:,} of {counted(channels, 'output channel')} ({100 * kept / max(channels, 1):.0f} %)"
        note = f"{self.name} with keep = {self.keep} keeps {share} of {counted(len(weights) - len(whole), 'layer')}"
        return f"{note}, and all of {few(whole)}" if whole else note


def _reasons(whole: Mapping[str, str]) -> str:
    """Why layers stay whole, each reason with the layers that it holds for."""
    names: dict[str, list[str]] = {}
    for name, why in whole.items():
        names.setdefault(why, []).append(f"'{name}'")
    return "; ".join(f"{few(layers)}: {why}" for why, layers in names.items())
