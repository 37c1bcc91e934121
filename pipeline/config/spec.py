"""A study file: TOML in, a frozen and validated ``StudySpec`` out, every error at once.

What a study searches stands in its file and is pinned in the stored study; no default grows when a method is added.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipeline.config.registry import ADAPTERS, COMPRESSIONS, DATASETS, INITS, LOSSES, MODELS, Config, Method, Registry
from pipeline.errors import SpecError

Metric = Literal["accuracy", "agreement"]
OptimizerName = Literal["adam", "adamw", "nesterov", "rmsprop", "sgd"]
Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not a min_length: that counts the valid items, and would call a list with one bad item empty.
    if not values:
        raise ValueError("must hold at least one")
    return values


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = [str(getattr(value, "name", value)) for place, value in enumerate(values) if value in values[:place]]
    if repeated:
        raise ValueError(f"each choice once; repeated: {', '.join(repeated)}")
    return values


def _choices(item: Any) -> Any:
    return Annotated[tuple[item, ...], Field(strict=False), AfterValidator(_some), AfterValidator(_distinct)]


def _method(registry: Registry[Any]) -> Any:
    return Annotated[SerializeAsAny[Method], BeforeValidator(registry.parse)]


class Range(Config):
    """A float to search, from ``low`` to ``high``, uniformly or in the logarithm."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    log: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fixed(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"low": value, "high": value} if number else value

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; swap them")
        return self


class SplitSpec(Config):
    """How the training images are split; drawn once from ``seed``, and kept with a hash of its indices."""

    val: float = Field(0.1, gt=0, lt=1)
    """Fraction of the training images that trials are judged on."""
    test: float = Field(0.1, gt=0, lt=1)
    """Fraction that is set aside first, where the data set has no test part of its own."""
    seed: int = Field(0, ge=0)


class BaselineSpec(Config):
    """How the uncompressed model is trained, once, where its weights are not simply loaded."""

    epochs: int = Field(ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    batch_size: int = Field(128, ge=1)


class TaskSpec(Config):
    """Model, data, split and baseline. Without ``baseline`` the model is used as it is loaded."""

    model: _method(MODELS)  # type: ignore[valid-type]
    data: _method(DATASETS)  # type: ignore[valid-type]
    split: SplitSpec = SplitSpec()
    baseline: BaselineSpec | None = None
    metric: Metric = "accuracy"
    """What is won back: right answers, or the uncompressed model's own, where the images' labels mean nothing to it."""

    @model_validator(mode="after")
    def _agrees_with_something(self) -> "TaskSpec":
        if self.metric == "agreement" and self.baseline is not None:
            raise ValueError(
                'metric = "agreement" uses no labels, so [task.baseline] has nothing to train on; leave one of them out'
            )
        return self


class TargetSpec(Config):
    """Layers to compress and adapt: ``"layer1.*"``, or with options ``{match = "layer1.*", rank = 4}``."""

    match: str = Field(min_length=1)
    """A group (``head``, ``attention``, ``mlp``, ``linear``, ``conv``, ``all``), or a glob over names of layers."""
    rank: int | None = Field(None, ge=1)
    """Their rank in every cell, clipped to what each takes; none: the cell's."""
    dense: bool = False
    """Leave them as they are: neither compressed nor adapted."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"match": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _either(self) -> "TargetSpec":
        if self.dense and self.rank is not None:
            raise ValueError(f"a dense layer has no adapter, so no rank = {self.rank}; give one of the two")
        return self

    @model_serializer(mode="wrap")
    def _bare_again(self, handler: SerializerFunctionWrapHandler) -> Any:
        options = {key: value for key, value in handler(self).items() if value not in (None, False)}
        return options if len(options) > 1 else self.match

    def __str__(self) -> str:
        return self.match


class CombinationSpec(Config):
    """One compression with one adapter on the layers that match ``targets``; one Optuna study."""

    name: Slug
    compression: _method(COMPRESSIONS)  # type: ignore[valid-type]
    adapter: _method(ADAPTERS)  # type: ignore[valid-type]
    targets: _choices(TargetSpec) = (TargetSpec(match="*"),)  # type: ignore[valid-type]
    """Which Linear and Conv2d layers; where several match a layer, the last of them says what becomes of it."""
    qkv: Literal["fused", "split"] = "fused"
    """Whether the query, key and value projections of attention are one layer, or three: ``qkv.q``, ``.k``, ``.v``."""
    batch_norm: Literal["kept", "reestimated"] = "kept"
    """Whether batch norms take their statistics again, from training images, once the layers are compressed."""


class SamplerSpec(Config):
    """How a cell's next values are chosen; ``startup`` random trials come before the first modelled one."""

    method: Literal["random", "tpe"] = "tpe"
    startup: int = Field(4, ge=1)


class PrunerSpec(Config):
    """Which trials of a cell end early: ``halving`` keeps the best 1 / ``factor`` at rungs a factor apart."""

    method: Literal["halving", "median", "none"] = "halving"
    first: int = Field(1, ge=1)
    """Epochs before the first decision."""
    factor: int = Field(3, ge=2)


class AllocationSpec(Config):
    """How a budget of the whole adapter is spread over layers, so that each has a rank of its own."""

    by: Literal["gain", "energy", "effective_rank"]
    """Marginal gain (squared singular value x sensitivity / cost), one share of energy, or effective rank."""
    unit: Literal["bytes", "parameters"] = "bytes"
    """What a budget counts: bytes as the adapter is stored, or trained numbers."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"by": value} if isinstance(value, str) else value


class SearchSpec(Config):
    """What each cell, that is each (rank, init), tries with its own equal budget."""

    ranks: _choices(Annotated[int, Field(ge=1)])  # type: ignore[valid-type]
    """Ranks of every layer; with an ``allocation``, budgets of the whole adapter."""
    allocation: AllocationSpec | None = None
    """Spreads each of ``ranks``, a budget then, over the layers; without it every layer has the same rank."""
    inits: _choices(_method(INITS))  # type: ignore[valid-type]
    alpha: Range
    optimizer: _choices(OptimizerName)  # type: ignore[valid-type]
    lr: Range
    batch_size: _choices(Annotated[int, Field(ge=1)])  # type: ignore[valid-type]
    epochs: int = Field(ge=1)
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate over a trial: constant, or one half cosine from ``lr`` to zero."""
    warmup: float = Field(0.0, ge=0)
    """Epochs over which the rate rises linearly to ``lr`` first."""
    loss: _method(LOSSES) = Field("cross-entropy", validate_default=True)  # type: ignore[valid-type]
    """What trials are trained on; their validation loss is of the same."""
    trials: int = Field(ge=1)
    """Budget of each cell: trials that completed or were pruned."""
    ask_ahead: int = Field(4, ge=1)
    """Trials of a cell that are asked for before the first of them is told."""
    queued: int = Field(0, ge=0)
    """How many of the cells that score best before any training begin with the middle of every range."""
    warm_start: int = Field(3, ge=0)
    """How many of the best values of the next higher rank each cell tries, once its start-up trials are done."""
    sampler: SamplerSpec = SamplerSpec()
    pruner: PrunerSpec = PrunerSpec()

    @model_validator(mode="after")
    def _past_startup(self) -> "SearchSpec":
        names = [init.name for init in self.inits]
        if len(set(names)) < len(names):
            raise ValueError(f"inits: each init once; given: {', '.join(names)}")
        if self.sampler.method == "tpe" and self.sampler.startup >= self.trials:
            said = (
                f"leaves none of the {self.trials} trials of a cell to the sampler; lower it, raise search.trials, or "
                f'choose search.sampler.method = "random"'
            )
            kind = PydanticCustomError("startup", "{said}", {"said": said})
            line = InitErrorDetails(type=kind, loc=("sampler", "startup"), input=self.sampler.startup)
            raise ValidationError.from_exception_data("SearchSpec", [line])
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup = {self.warmup} leaves nothing of epochs = {self.epochs}; lower it")
        return self


class ComputeSpec(Config):
    """How numbers are computed; what differs here may differ in the last digits, or in more."""

    cache: Literal["float32", "float16", "bfloat16", "off"] = "float32"
    """How the outputs of the frozen layers are kept on disk; the halves are half as large, and round."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products while training: bfloat16 is autocast, quick on GPUs that have it."""
    channels_last: bool = False
    """Lay images out as [N, H, W, C], which convolutions in bfloat16 on a GPU prefer."""
    compile: bool = False
    """Compile what comes after the cut (minutes, once); pays for deep parts on a GPU."""


class SpectraSpec(Config):
    """Which layers' singular values are recorded, after every epoch of the baseline and of each cell's winner."""

    layers: _choices(str)  # type: ignore[valid-type]
    """Glob patterns over the names of Linear and Conv2d layers."""
    values: int = Field(64, ge=1)
    """How many singular values of a matrix are kept at most, the largest; the effective rank counts all."""


class StudySpec(Config):
    """One study file."""

    version: Literal[1] = 1
    name: Slug
    seed: int = Field(0, ge=0)
    seeds: int = Field(1, ge=1)
    """The winner of each cell is trained under this many seeds in all; tables give mean and spread."""
    task: TaskSpec
    combination: Annotated[tuple[CombinationSpec, ...], Field(strict=False), AfterValidator(_some)]
    search: SearchSpec
    compute: ComputeSpec = ComputeSpec()
    spectra: SpectraSpec | None = None
    """Spectra to record; winners are trained once more for them, trials are not slowed."""

    @model_validator(mode="after")
    def _combinations_have_names_of_their_own(self) -> "StudySpec":
        _distinct(tuple(combination.name for combination in self.combination))
        return self

    def find(self, name: str) -> CombinationSpec:
        """The combination of that name."""
        for combination in self.combination:
            if combination.name == name:
                return combination
        names = ", ".join(combination.name for combination in self.combination)
        raise SpecError(f"study '{self.name}' has no combination '{name}'; it has: {names}")
