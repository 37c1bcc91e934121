"""A table of options in a study file: frozen, strict, and with every error of it reported at once."""

import difflib
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, SerializationInfo, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, ValidationError

BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("greater than or equal to", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("less than or equal to", "le"),
}
"""By the type of an error of a number: its bound in words, and the name of the bound in a field's metadata."""

COMPLETE = "complete"
"""The context in which a config is written with all its options."""


def closest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of ``names``; None if none is similar."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


def nearest(name: str, names: Iterable[str]) -> str:
    """A clause that offers the most similar of ``names``; empty if none is similar.

    >>> nearest("cosin", ["constant", "cosine"])
    "; did you mean 'cosine'?"
    >>> nearest("warm", ["constant", "cosine"])
    ''
    """
    similar = closest(name, names)
    return f"; did you mean '{similar}'?" if similar else ""


def wrong(kind: str, message: str, location: tuple[int | str, ...], value: object) -> InitErrorDetails:
    """An error of a table at a place in it."""
    kind_of_error = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=kind_of_error, loc=location, input=value)


class Config(BaseModel):
    """A frozen table of options. Its errors name every unknown key, and the closest match of a misspelt choice."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="ignore")

    later: ClassVar[frozenset[str]] = frozenset()
    """Options of later versions, beside those of its bases; a table that is stored or hashed leaves their defaults out,
    so that the hashes of earlier versions stay."""
    retired: ClassVar[frozenset[str]] = frozenset()
    """Options that earlier versions took and that had no effect; they are accepted and dropped."""

    @model_validator(mode="wrap")
    @classmethod
    def _report_every_error(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        known, given = cls.model_fields.keys() | cls.retired, value if isinstance(value, dict) else {}
        unknown = {key: option for key, option in given.items() if key not in known}
        allowed = ", ".join(cls.model_fields) or "no options"
        found = [
            wrong("unknown_key", f"unknown key{nearest(key, cls.model_fields)}; allowed: {allowed}", (key,), option)
            for key, option in unknown.items()
        ]
        suggested = {(closest(key, cls.model_fields),) for key in unknown}
        try:
            config = handler(value)
        except ValidationError as error:
            found += [
                wrong(line["type"], cls._explained(line), line["loc"], line["input"])
                for line in error.errors(include_url=False)
                if line["type"] != "missing" or line["loc"] not in suggested
            ]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return config

    def complete(self) -> Any:
        """This config as JSON, with all options: for people who read it, and never for a hash."""
        return self.model_dump(mode="json", context=COMPLETE)

    def without_later_defaults(self, table: dict[str, Any], info: SerializationInfo) -> dict[str, Any]:
        """This config as a table, without those of its options of later versions that have their defaults."""
        if info.context == COMPLETE:
            return table
        later = frozenset[str]().union(*(vars(base).get("later", ()) for base in type(self).__mro__))
        defaults = {name: type(self).model_fields[name].default for name in later}
        return {
            name: value
            for name, value in table.items()
            # A method's default may be its name, to which its value is equal once it is written.
            if name not in defaults or defaults[name] not in (getattr(self, name), value)
        }

    @classmethod
    def _explained(cls, line: ErrorDetails) -> str:
        """Pydantic's message in the words of a study file, with the closest match of a misspelt choice."""
        message = line["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        message = re.sub(r"a valid dictionary or instance of \w+", "a table", message).replace(
            "a valid tuple", "a list"
        )
        if line["type"] in BOUNDS and (bounds := cls._bounds(line["loc"])):
            message = f"must be {' and '.join(bounds)}"
        # An error of an inner table was explained there already, and has no list of choices any more.
        choices = re.findall(r"'([^']*)'", line.get("ctx", {}).get("expected", ""))
        if line["type"] == "literal_error" and isinstance(line["input"], str):
            message += nearest(line["input"], choices)
        elif line["input"] == "auto" and line["type"].endswith("_type"):
            message += ', and cannot be "auto"'
        return message

    @classmethod
    def _bounds(cls, location: tuple[int | str, ...]) -> list[str]:
        """The bounds of the field at a location of this table, in words; none of an item of a list."""
        metadata = cls.model_fields[str(location[0])].metadata if len(location) == 1 else []
        return [
            f"{words} {getattr(bound, name)}"
            for words, name in BOUNDS.values()
            for bound in metadata
            if hasattr(bound, name)
        ]
