"""Options of a method that are "auto": the values that they may have, and every config that these make."""

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import ValidationError

from pipeline.config.registry import Method, Registry
from pipeline.wording import as_written

M = TypeVar("M", bound=Method)
AUTO = "auto"
"""The value of an option that is chosen by measuring."""


class Candidate(NamedTuple, Generic[M]):
    """A config that a table with "auto" may stand for."""

    options: Mapping[str, Any]
    """The values of the options that are "auto" there."""
    config: M


class Auto(NamedTuple, Generic[M]):
    """A table of a study file with options that are "auto"."""

    entry: int | None
    """The index of the entry of ``targets`` that the table belongs to; None for that of the combination."""
    of: str
    """What follows the name of an option, such as `` of fc2`` for the entry ``fc2``; empty for the combination."""
    candidates: tuple[Candidate[M], ...]
    """What the table may stand for, the defaults first."""

    def named(self, candidate: Candidate[M]) -> dict[str, Any]:
        """The options of a candidate, by names that no other table of the combination has."""
        return {f"{option}{self.of}": value for option, value in candidate.options.items()}


class Tried(NamedTuple):
    """How a candidate scored."""

    options: Mapping[str, Any]
    divergence: float
    """Mean KL divergence of the model's outputs to the uncompressed model's, in nats; the lower the better."""

    def __str__(self) -> str:
        return f"{as_written(self.options)}: {self.divergence:.4g} nats from the uncompressed model's outputs"


def choices(method: type[Method], option: str) -> list[Any]:
    """What "auto" tries for an option, its default first; nothing if the option is neither a choice nor has examples.

    A number's values are the ``examples`` of its field.
    """
    field = method.model_fields.get(option)
    if field is None:
        return []
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else field.examples or ()
    values = (False, True) if field.annotation is bool else values
    return sorted(values, key=lambda value: bool(value != field.default))


def candidates(registry: Registry[M], table: object) -> tuple[object, tuple[Candidate[M], ...]]:
    """A method's ``table`` with defaults for "auto", and the configs that it stands for, that of the defaults first.

    There are none without "auto". Options that do not go together are left out.
    """
    if not isinstance(table, dict) or table.get(registry.key) not in [method.name for method in registry]:
        return table, ()
    method = registry[table[registry.key]]
    tried = {option: choices(method, option) for option, value in table.items() if value == AUTO}
    tried = {option: values for option, values in tried.items() if values}
    if not tried:
        return table, ()
    products = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
    found = list[Candidate[M]]()
    for options in products:
        with contextlib.suppress(ValidationError):
            found.append(Candidate(options, registry.parse({**table, **options})))
    return {**table, **(found[0].options if found else products[0])}, tuple(found)
