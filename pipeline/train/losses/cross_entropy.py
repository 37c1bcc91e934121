"""Cross-entropy with the labels."""

from pydantic import Field
from torch import Tensor

from pipeline.config.registry import LOSSES
from pipeline.train.losses.contract import Loss, cross_entropy


@LOSSES.register("cross-entropy")
class CrossEntropy(Loss):
    """Cross-entropy with the labels, with label smoothing if asked for."""

    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a label that is spread evenly over all classes that the model does not mask."""

    def losses(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        return cross_entropy(logits, labels, self.smoothing)
