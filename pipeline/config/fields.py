"""Types of fields that several tables of a study file share."""

from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.table import Config

T = TypeVar("T")
V = TypeVar("V", bound=tuple[object, ...])


def refuse_empty(values: V) -> V:
    """Refuse a list without items."""
    # Field(min_length=1) would count the valid items only, and call a list with one wrong item empty.
    if not values:
        raise ValueError("must hold at least one")
    return values


def refuse_repeated(values: V) -> V:
    """Refuse a list that holds an item twice; a method is named, not printed with its options."""
    repeated = [str(getattr(value, "name", value)) for i, value in enumerate(values) if value in values[:i]]
    if repeated:
        raise ValueError(f"each choice once; repeated: {', '.join(repeated)}")
    return values


SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Pattern of a name that is safe as a file name: up to 64 letters, digits, ``.``, ``_`` and ``-``."""

Slug = Annotated[str, Field(pattern=f"^{SAFE_NAME}$")]
"""A name that is safe as a file name."""

Count = Annotated[int, Field(ge=1)]
"""A whole number of 1 or more."""

AnyNumber = Annotated[tuple[T, ...], Field(strict=False)]
"""A TOML list, which may be empty."""

NotEmpty = Annotated[AnyNumber[T], AfterValidator(refuse_empty)]
"""A TOML list with at least one item."""

Choices = Annotated[NotEmpty[T], AfterValidator(refuse_repeated)]
"""A TOML list of different items, at least one."""


class Range(Config):
    """The interval of a real number that is searched. A bare number stands for the interval that holds it alone."""

    low: float = Field(gt=0)
    """Lower bound, included."""
    high: float = Field(gt=0)
    """Upper bound, included."""
    log: bool = False
    """Whether the logarithm is searched uniformly, instead of the number itself."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"low": value, "high": value} if is_number else value

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; swap them")
        return self
