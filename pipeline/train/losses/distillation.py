"""Distillation from the uncompressed model (Hinton, Vinyals, Dean 2015, arXiv:1503.02531)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config.fields import AnyNumber
from pipeline.config.registry import LOSSES
from pipeline.train.losses.contract import Loss, cross_entropy, divergence, relative_error


@LOSSES.register("distillation")
class Distillation(Loss):
    """``labels CE + (1 - labels) t^2 KL(teacher || student)`` at temperature ``t``; the teacher is uncompressed.

    With ``features`` the loss adds ``feature_weight mean_b E[(y_b - t_b)^2] / Var[t_b]`` over the outputs of blocks
    ``b``, ``y`` of the compressed and ``t`` of the uncompressed model (Romero et al. 2015, arXiv:1412.6550).
    """

    later: ClassVar[frozenset[str]] = frozenset({"features", "feature_weight"})

    temperature: float = Field(2.0, gt=0)
    """What the logits of both models are divided by; the factor ``t^2`` keeps the size of the gradient."""
    labels: float = Field(0.0, ge=0, lt=1)
    """Weight of the cross-entropy with the labels; 0 uses no labels."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a label that is spread evenly over all classes that the model does not mask."""
    features: AnyNumber[str] = ()
    """Names of modules, e.g. `"layer1"`, whose outputs come near to the uncompressed model's; the whole model runs."""
    feature_weight: float = Field(1.0, gt=0)
    """Weight of the squared error of these outputs, each relative to the variance of the teacher's."""

    @model_validator(mode="after")
    def _smooths_something(self) -> "Distillation":
        if self.smoothing and not self.labels:
            raise ValueError(f"smoothing = {self.smoothing} needs labels, and labels = 0 uses none; give labels > 0")
        return self

    @property
    def needs_teacher(self) -> bool:
        return True

    @property
    def blocks(self) -> tuple[str, ...]:
        return self.features

    def block_losses(self, outputs: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        errors = [relative_error(*pair) for pair in zip(outputs, teacher, strict=True)]
        return self.feature_weight * torch.stack(errors).mean(0)

    def losses(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        if teacher is None:
            raise ValueError("distillation needs the logits of the teacher; give rows whose last tensor holds them")
        taught = self.temperature**2 * divergence(logits, teacher, self.temperature)
        if not self.labels:
            return taught
        return self.labels * cross_entropy(logits, labels, self.smoothing) + (1 - self.labels) * taught
