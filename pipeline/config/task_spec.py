"""``[task]`` of a study file: the model, its data, their split, and how a baseline is trained."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.config import registry
from pipeline.config.fields import AnyNumber, Count
from pipeline.config.registry import DATASETS, METRICS, MODELS, DataSource, Metric, ModelSource
from pipeline.config.table import Config

TorchOptimizer = Literal["adam", "adamw", "sgd"]
"""Optimizers of ``torch.optim``, for parameters that are trained outside the search."""


class SplitSpec(Config):
    """How the training images are split: drawn once from ``seed``, and stored with a hash of the indices."""

    val: float = Field(0.1, gt=0, lt=1)
    """Fraction of the training images on which trials are judged."""
    test: float = Field(0.1, gt=0, lt=1)
    """Fraction that is split off first as the test part, if the data set has none."""
    seed: int = Field(0, ge=0)
    """Seed of the split, of the model's random weights and of the baseline's training."""


class BaselineSpec(Config):
    """How the uncompressed model is trained once, if its weights are not simply loaded."""

    epochs: Count
    """Epochs of training."""
    optimizer: TorchOptimizer = "adam"
    """Optimizer of ``torch.optim``, with its defaults there; ``sgd`` has no momentum."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    batch_size: Count = 128
    """Images per batch."""
    schedule: Annotated[registry.Schedule, registry.SCHEDULES] = Field("constant", validate_default=True)
    """The learning rate over the training."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay of the optimizer; if not given, its default in ``torch.optim``: 0.01 for ``adamw``, else 0."""
    augmentation: AnyNumber[Annotated[registry.Augmentation, registry.AUGMENTATIONS]] = ()
    """Random changes of the training images, one after another, anew in every epoch."""
    keep: Literal["last", "best"] = "last"
    """The weights after the last epoch, or after the one that is best on the validation part, the first of equals."""

    later: ClassVar[frozenset[str]] = frozenset({"schedule", "weight_decay", "augmentation", "keep"})

    @model_serializer(mode="wrap")
    def _without_later_defaults(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        return self.without_later_defaults(handler(self), info)


class TaskSpec(Config):
    """Model, data, split and baseline. Without ``baseline`` the model is used as it is loaded."""

    model: Annotated[ModelSource, MODELS]
    """The model source, with its options."""
    data: Annotated[DataSource, DATASETS]
    """The data set, with its options."""
    split: SplitSpec = SplitSpec()
    """Fractions of the parts."""
    baseline: BaselineSpec | None = None
    """How the model is trained before it is compressed."""
    metric: Annotated[Metric, METRICS] = Field("accuracy", validate_default=True)
    """What trials are judged by: ``accuracy``, or ``agreement`` with the uncompressed model."""

    @model_validator(mode="after")
    def _has_labels_to_train_on(self) -> Self:
        if not self.metric.uses_labels and self.baseline is not None:
            raise ValueError(
                f'metric = "{self.metric.name}" uses no labels, so [task.baseline] has nothing to train on; leave '
                f"one of them out"
            )
        return self
