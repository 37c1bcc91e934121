"""``[search]`` of a study file: what is searched, and how."""

from typing import Annotated, Any, Self

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator

from pipeline.config import registry
from pipeline.config.candidates import AUTO
from pipeline.config.fields import AnyNumber, Choices, Count, Range
from pipeline.config.table import Config, wrong

FIRST_INIT = "svd"
"""What stands for an init that is "auto" until it is chosen."""


class SearchSpec(Config):
    """What every cell tries; a cell is one (rank, init), and each has the same budget of trials."""

    ranks: Choices[Count]
    """Rank of every layer; with ``allocation``, the budget of the whole adapter in the allocation's unit."""
    allocation: Annotated[registry.Allocation, registry.ALLOCATIONS] | None = None
    """How a budget is spread over the layers; without it every layer has the same rank."""
    inits: Choices[Annotated[registry.Init, registry.INITS]]
    """Starting points of the adapter, with their options; or "auto": the best of all before training."""
    alpha: Range
    """Alpha of the adapter: its output is scaled by ``alpha / r``, or as the adapter's ``scale`` says."""
    optimizer: Choices[Annotated[registry.Optimizer, registry.OPTIMIZERS]]
    """Optimizers to choose from."""
    lr: Range
    """Peak learning rate."""
    batch_size: Choices[Count]
    """Images per batch, to choose from."""
    epochs: Count
    """Epochs of each trial."""
    schedule: Annotated[registry.Schedule, registry.SCHEDULES] = Field("constant", validate_default=True)
    """The learning rate over a trial."""
    warmup: float = Field(0.0, ge=0)
    """Epochs over which the learning rate first rises linearly to ``lr``."""
    augmentation: AnyNumber[Annotated[registry.Augmentation, registry.AUGMENTATIONS]] = ()
    """Random changes of the training images, one after another, anew in every epoch."""
    loss: Annotated[registry.Loss, registry.LOSSES] = Field("cross-entropy", validate_default=True)
    """The loss that trials minimize; their validation loss is the same one."""
    trials: Count
    """Budget of each cell: trials that completed or were pruned."""
    ask_ahead: Count = 4
    """Trials of a cell that are asked for before the result of the first of them is known."""
    queued: int = Field(0, ge=0)
    """Cells, those that score best before any training, that start from the middle of every range."""
    warm_start: int = Field(3, ge=0)
    """Best values of the next higher rank that each cell tries after its start-up trials."""
    sampler: Annotated[registry.Sampler, registry.SAMPLERS] = Field("tpe", validate_default=True)
    """How a cell's next values are chosen."""
    pruner: Annotated[registry.Pruner, registry.PRUNERS] = Field("halving", validate_default=True)
    """Which trials of a cell end early."""
    _init_candidates: tuple[registry.Init, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _first_of_inits(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or value.get("inits") != AUTO:
            return handler(value)
        spec = handler({**value, "inits": [FIRST_INIT]})
        with_defaults = (
            init for init in registry.INITS if not any(f.is_required() for f in init.model_fields.values())
        )
        spec._init_candidates = tuple(init() for init in with_defaults)
        return spec

    @property
    def init_candidates(self) -> tuple[registry.Init, ...]:
        """What an init that is "auto" may be; none once it is chosen, or if none is "auto"."""
        return self._init_candidates

    def having(self, *inits: registry.Init) -> Self:
        """This search with inits that are chosen."""
        search = self.model_copy(update={"inits": inits})
        search._init_candidates = ()
        return search

    @property
    def budget_unit(self) -> str | None:
        """What a rank counts if it is a budget; None without an allocation."""
        return self.allocation.unit if self.allocation else None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [init.name for init in self.inits]
        if len(set(names)) < len(names):
            raise ValueError(f"inits: each init once; given: {', '.join(names)}")
        if self.sampler.learns and self.sampler.startup >= self.trials:
            message = (
                f"leaves none of the {self.trials} trials of a cell to the sampler; lower it, raise search.trials, or "
                f'choose search.sampler.method = "random"'
            )
            line = wrong("startup", message, ("sampler", "startup"), self.sampler.startup)
            raise ValidationError.from_exception_data("SearchSpec", [line])
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup = {self.warmup} leaves nothing of epochs = {self.epochs}; lower it")
        return self
