"""How a new file becomes a new method: register by decorator, find a folder's files, refuse duplicates.

Every registered thing is a frozen config class. Its fields are the options that a study file may set; its methods
do the work; the first line of its docstring is its summary.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, ValidationError


def nearest(name: str, names: list[str]) -> str:
    """A clause that offers the nearest of ``names``, or nothing where none is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _explained(line: ErrorDetails) -> str:
    """What pydantic says of one error, with the nearest choice where a choice was misspelt."""
    said = line["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    said = re.sub(r"a valid dictionary or instance of \w+", "a table", said).replace("a valid tuple", "a list")
    # An error of an inner table was explained there, and comes here without its choices.
    choices = re.findall(r"'([^']*)'", line.get("ctx", {}).get("expected", ""))
    if line["type"] == "literal_error" and isinstance(line["input"], str):
        said += nearest(line["input"], choices)
    return said


class Config(BaseModel):
    """A frozen table of options that names every unknown key beside every other error."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="ignore")

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        names = list(cls.model_fields)
        unknown = [key for key in value if key not in names] if isinstance(value, dict) else []
        errors = [
            InitErrorDetails(
                type=PydanticCustomError("unknown_key", "{said}", {"said": f"unknown key{nearest(key, names)}; "
                                         f"allowed: {', '.join(names) or 'no options'}"}),
                loc=(key,),
                input=value[key],
            )
            for key in unknown
        ]  # fmt: skip
        try:
            config = handler(value)
        except ValidationError as error:
            errors += [
                InitErrorDetails(
                    type=PydanticCustomError(line["type"], "{said}", {"said": _explained(line)}),
                    loc=line["loc"],
                    input=line["input"],
                )
                for line in error.errors(include_url=False)
            ]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return config


class Method(Config):
    """A registered config: its table in a study file is ``{<key> = "<name>", option = value, ...}``."""

    key: ClassVar[str]
    name: ClassVar[str]

    @classmethod
    def summary(cls) -> str:
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @model_serializer(mode="wrap")
    def _name_itself(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {self.key: self.name, **handler(self)}


M = TypeVar("M", bound=type[Method])


class Registry(Generic[M]):
    """The methods of one kind, by name.

    Args:
        noun: What one of them is called in messages.
        key: The key that names a method in its table of a study file.
        package: The folder whose files register them; imported at the first look-up, not before.
    """

    def __init__(self, noun: str, key: str, package: str) -> None:
        self.noun = noun
        self.key = key
        self._package = package
        self._methods: dict[str, M] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[M], M]:
        def add(method: M) -> M:
            if name in self._methods:
                raise ValueError(f"{self.noun} '{name}' is registered twice: {self._methods[name]} and {method}")
            method.name, method.key = name, self.key
            self._methods[name] = method
            return method

        return add

    def __iter__(self) -> Iterator[M]:
        self._discover()
        return iter(method for _, method in sorted(self._methods.items()))

    def __getitem__(self, name: str) -> M:
        self._discover()
        if name not in self._methods:
            names = sorted(self._methods)
            raise LookupError(f"unknown {self.noun} '{name}'{nearest(name, names)}; allowed: {', '.join(names)}")
        return self._methods[name]

    def _discover(self) -> None:
        if not self._discovered:
            folder = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(folder.__path__, f"{self._package}."):
                importlib.import_module(module.name)
            self._discovered = True

    def parse(self, table: object) -> Any:
        """``"int1"`` or ``{method = "int1", scale = "row"}`` -> the validated config."""
        if isinstance(table, Method):
            return table
        table = {self.key: table} if isinstance(table, str) else table
        if not isinstance(table, dict) or not isinstance(table.get(self.key), str):
            raise ValueError(f'give a name, or a table with {self.key} = "<name>"')
        try:
            method = self[table[self.key]]
        except LookupError as error:
            raise ValueError(error.args[0]) from None
        return method.model_validate({key: value for key, value in table.items() if key != self.key})


MODELS: Registry[Any] = Registry("model source", "source", "pipeline.task.models")
DATASETS: Registry[Any] = Registry("data set", "source", "pipeline.task.data")
COMPRESSIONS: Registry[Any] = Registry("compression", "method", "pipeline.compress.methods")
ADAPTERS: Registry[Any] = Registry("adapter", "method", "pipeline.adapt.methods")
INITS: Registry[Any] = Registry("init", "method", "pipeline.adapt.inits")
LOSSES: Registry[Any] = Registry("loss", "method", "pipeline.train.losses")
