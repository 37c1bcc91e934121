"""A whole study file as a frozen, validated ``StudySpec``.

What a study searches is written in its file and pinned in the stored study. No default grows when a method is added.
"""

from importlib.metadata import version
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.config.combination_spec import PLAIN, CombinationSpec, StorageSpec
from pipeline.config.fields import Choices, Count, NotEmpty, Slug
from pipeline.config.search_spec import SearchSpec
from pipeline.config.table import Config
from pipeline.config.task_spec import TaskSpec
from pipeline.errors import SpecError
from pipeline.wording import quoted


class ComputeSpec(Config):
    """How results are computed. A change here changes the last digits of the results, or more."""

    cache: Literal["float32", "float16", "bfloat16", "off"] = "float32"
    """Type in which outputs of the frozen layers are kept on disk; the 16-bit types take half the space and round."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of matrix products during training; ``bfloat16`` is autocast, fast on GPUs and CPUs that support it."""
    channels_last: bool = False
    """Whether images are laid out as [N, H, W, C], which is faster for bfloat16 convolutions."""
    compile: bool = False
    """Whether the layers after the cut are compiled; takes minutes once, and pays for deep models on a GPU."""

    @field_validator("compile")
    @classmethod
    def _refuse_wrong_gradients(cls, wanted: bool) -> bool:
        found = version("torch")
        if wanted and tuple(map(int, found.split(".")[:2])) < (2, 8):
            raise ValueError(
                f"torch {found} compiles wrong gradients where trials of different ranks train side by side; install "
                f"torch 2.8 or newer, or leave compile out"
            )
        return wanted


class SpectraSpec(Config):
    """Layers whose singular values are recorded after every epoch, of the baseline and of each cell's winner."""

    layers: Choices[str]
    """Glob patterns over the names of Linear and Conv2d layers."""
    values: Count = 64
    """Singular values recorded per matrix, the largest ones; the effective rank counts all of them."""


class StudySpec(Config):
    """One study file."""

    version: Literal[1] = 1
    """Version of the file's form."""
    name: Slug
    """Name under which the study is stored; if not given, the file's name."""
    seed: int = Field(0, ge=0)
    """Seed of the search, of the adapters' random starts and of the batch order."""
    seeds: Count = 1
    """Number of seeds under which the winner of each cell is trained; tables give mean and spread."""
    task: TaskSpec
    """Model, data, split and baseline."""
    combination: NotEmpty[CombinationSpec]
    """The combinations; each is searched alone."""
    search: SearchSpec
    """What is searched in every combination."""
    compute: ComputeSpec = ComputeSpec()
    """Precision, caches and compilation."""
    storage: StorageSpec = PLAIN
    """How exported files hold tensors, of combinations that do not say it themselves."""
    spectra: SpectraSpec | None = None
    """Singular values to record; winners are trained once more for them, trials are not slowed down."""

    @model_validator(mode="before")
    @classmethod
    def _give_storage_to_combinations(cls, value: object) -> object:
        if not isinstance(value, dict) or not isinstance(value.get("combination"), list | tuple):
            return value
        try:
            storage = StorageSpec.model_validate(value.get("storage", PLAIN))
        except ValidationError:  # it is reported once, for the study
            return value
        given = [
            {"storage": storage, **one} if isinstance(one, dict) and storage != PLAIN else one
            for one in value["combination"]
        ]
        return {**value, "combination": given}

    @field_validator("combination")
    @classmethod
    def _have_names_of_their_own(cls, combinations: tuple[CombinationSpec, ...]) -> tuple[CombinationSpec, ...]:
        names = [one.name for one in combinations]
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if repeated:
            raise ValueError(f"each needs a name of its own, and several are called {quoted(repeated)}; rename them")
        return combinations

    def find(self, name: str) -> CombinationSpec:
        """The combination of that name.

        Raises:
            SpecError: There is none.
        """
        named = {combination.name: combination for combination in self.combination}
        if name not in named:
            raise SpecError(f"study '{self.name}' has no combination '{name}'; it has: {', '.join(named)}")
        return named[name]
