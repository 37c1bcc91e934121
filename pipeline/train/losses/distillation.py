"""Distillation from the uncompressed model (Hinton, Vinyals, Dean 2015, arXiv:1503.02531)."""

from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config.registry import LOSSES
from pipeline.train.losses.contract import Loss, cross_entropy, divergence


@LOSSES.register("distillation")
class Distillation(Loss):
    """``labels CE + (1 - labels) t^2 KL(teacher || student)`` at temperature ``t``; the teacher is uncompressed."""

    temperature: float = Field(2.0, gt=0)
    """What the logits of both models are divided by; the factor ``t^2`` keeps the size of the gradient."""
    labels: float = Field(0.0, ge=0, lt=1)
    """Weight of the cross-entropy with the labels; 0 uses no labels."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a label that is spread evenly over all classes."""

    @model_validator(mode="after")
    def _smooths_something(self) -> "Distillation":
        if self.smoothing and not self.labels:
            raise ValueError(f"smoothing = {self.smoothing} needs labels, and labels = 0 uses none; give labels > 0")
        return self

    @property
    def needs_teacher(self) -> bool:
        return True

    def losses(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        if teacher is None:
            raise ValueError("distillation needs the logits of the teacher; give rows whose last tensor holds them")
        taught = self.temperature**2 * divergence(logits, teacher, self.temperature)
        if not self.labels:
            return taught
        return self.labels * cross_entropy(logits, labels, self.smoothing) + (1 - self.labels) * taught
