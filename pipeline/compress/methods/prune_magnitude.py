"""Structured pruning by magnitude, after training, as in Li et al. (2017, arXiv:1608.08710)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pipeline.compress.layers import weight_matrix
from pipeline.compress.structured_pruning import StructuredPruning
from pipeline.config.registry import COMPRESSIONS
from pipeline.task.contract import Part


@COMPRESSIONS.register("prune_magnitude")
class PruneMagnitude(StructuredPruning):
    """Keeps the ``c * out`` output channels of largest weight norm: for smaller and faster dense models.

    The next layers lose the inputs that the other channels gave. Norms are summed over layers that can only lose
    channels together, such as those of a residual stream, and over the rows of query, key and value of an attention
    head.
    """

    norm: Literal["l1", "l2"] = "l2"
    """The norm of a row of the weight ``[out, in * kh * kw]``: ``sum |w|`` or ``sqrt(sum w^2)``."""

    def pruned(self, model: nn.Module, targets: Sequence[str], train: Part, noise: Tensor) -> nn.Module:
        order = {"l1": 1, "l2": 2}[self.norm]
        norms = {name: weight_matrix(model.get_submodule(name)).double().norm(order, dim=1) for name in targets}
        return self.prune(model, noise, norms).model
