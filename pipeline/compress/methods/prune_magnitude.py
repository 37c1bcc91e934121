"""Structured pruning by magnitude, after training, as in Li et al. (2017, arXiv:1608.08710)."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from pipeline.compress.channels import prune_channels
from pipeline.compress.contract import CompressedModel, LayerStats
from pipeline.compress.layers import sound_matrix
from pipeline.compress.structured_pruning import StructuredPruning, as_compressed, noise_like, require_train
from pipeline.config.registry import COMPRESSIONS
from pipeline.task.contract import Part


@COMPRESSIONS.register("prune_magnitude")
class PruneMagnitude(StructuredPruning):
    """The ``c * out`` output channels of largest weight norm remain; the next layers lose the inputs of the others.

    Norms are summed over layers that can only lose channels together, such as those of a residual stream, and over the
    rows of query, key and value of an attention head.
    """

    norm: Literal["l1", "l2"] = "l2"
    """The norm of a row of the weight ``[out, in * kh * kw]``: ``sum |w|`` or ``sqrt(sum w^2)``."""

    def compress_model(
        self,
        model: nn.Module,
        targets: Sequence[str],
        stats: Mapping[str, Sequence[LayerStats]],
        train: Part | None = None,
    ) -> CompressedModel:
        noise = noise_like(model, require_train(self.name, train))
        matrices = {name: sound_matrix(model, name) for name in targets}
        order = {"l1": 1, "l2": 2}[self.norm]
        norms = {name: matrix.double().norm(order, dim=1) for name, matrix in matrices.items()}
        pruned = prune_channels(model, targets, noise, norms, lambda _, units: self.kept(units))
        return as_compressed(pruned.model, targets)
