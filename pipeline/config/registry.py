"""How a new file becomes a new method: it registers a class, and the registry finds the files of its folder.

Every registered class is a frozen config. Its fields are the options that a study file may set, its methods do the
work, and the first line of its docstring is its summary.
"""

import copy
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import CoreSchema, core_schema

from pipeline.config.table import Config, nearest


class Method(Config):
    """A registered config: its table in a study file is ``{<key> = "<name>", option = value, ...}``."""

    key: ClassVar[str]
    name: ClassVar[str]
    written_as_name: ClassVar[bool]

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @model_serializer(mode="wrap")
    def _with_its_name(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any] | str:
        options = self.without_later_defaults(handler(self), info)
        return {self.key: self.name, **options} if options or not self.written_as_name else self.name


if TYPE_CHECKING:
    from pipeline.adapt.contract import Adapter as Adapter
    from pipeline.adapt.inits.contract import Init as Init
    from pipeline.compress.contract import Compression as Compression
    from pipeline.objective.allocations.contract import Allocation as Allocation
    from pipeline.search.contract import Pruner as Pruner
    from pipeline.search.contract import Sampler as Sampler
    from pipeline.task.augmentations.contract import Augmentation as Augmentation
    from pipeline.task.contract import Metric as Metric
    from pipeline.task.data.contract import DataSource as DataSource
    from pipeline.task.models.contract import ModelSource as ModelSource
    from pipeline.train.contract import Optimizer as Optimizer
    from pipeline.train.contract import Schedule as Schedule
    from pipeline.train.losses.contract import Loss as Loss
else:  # those modules import this one; at run time a field is validated by its registry, whatever its type
    Adapter = Allocation = Augmentation = Compression = DataSource = Init = Loss = Metric = Method
    ModelSource = Optimizer = Pruner = Sampler = Schedule = Method

M = TypeVar("M", bound=Method)


class Registry(Generic[M]):
    """The methods of one kind, by name.

    A field of a study file that holds one of them is typed ``Annotated[Kind, REGISTRY]``.

    Args:
        noun: What one method is called in messages.
        key: The key that names a method in its table of a study file.
        package: The package whose modules register the methods; they are imported at the first look-up.
        default: The method of a table that names none.
        written_as_name: Whether a method without options is stored as its bare name instead of a table.

    >>> registry = Registry[Method]("colour", "method", "pipeline.train.schedules")
    >>> @registry.register("red")
    ... class Red(Method):
    ...     shade: int = 3
    >>> registry.parse({"method": "red", "shade": 5})
    Red(shade=5)
    """

    def __init__(
        self, noun: str, key: str, package: str, *, default: str | None = None, written_as_name: bool = False
    ) -> None:
        self.noun = noun
        self.key = key
        self._default = default
        self._package = package
        self._written_as_name = written_as_name
        self._methods: dict[str, type[M]] = {}
        self._accepts: Callable[[type[M]], bool] = lambda method: True
        self._discovered = False

    def narrowed(self, noun: str, accepts: Callable[[type[M]], bool]) -> "Registry[M]":
        """This registry for a field that takes no methods but those that ``accepts`` says, called ``noun`` there."""
        narrowed = copy.copy(self)
        narrowed.noun, narrowed._accepts = noun, accepts
        return narrowed

    def register(self, name: str) -> Callable[[type[M]], type[M]]:
        """A decorator that adds a class under ``name``.

        Raises:
            ValueError: The name is taken.
        """

        def add(method: type[M]) -> type[M]:
            if name in self._methods:
                raise ValueError(f"{self.noun} '{name}' is registered twice: {self._methods[name]} and {method}")
            method.name, method.key, method.written_as_name = name, self.key, self._written_as_name
            self._methods[name] = method
            return method

        return add

    def __iter__(self) -> Iterator[type[M]]:
        self._discover()
        return iter(method for _, method in sorted(self._methods.items()) if self._accepts(method))

    def __getitem__(self, name: str) -> type[M]:
        known = {method.name: method for method in self}
        if name not in known:
            raise LookupError(f"unknown {self.noun} '{name}'{nearest(name, known)}; allowed: {', '.join(known)}")
        return known[name]

    def _discover(self) -> None:
        if not self._discovered:
            folder = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(folder.__path__, f"{self._package}."):
                importlib.import_module(module.name)
            self._discovered = True

    def parse(self, table: object) -> M:
        """The config of a study file's ``"int1"`` or ``{method = "int1", scale = "row"}``.

        Raises:
            ValueError: No registered method is named, or an option is wrong (pydantic's ``ValidationError``).
        """
        for method in self._methods.values():
            if isinstance(table, method) and self._accepts(method):
                return table
        table = {self.key: table} if isinstance(table, str) else table
        name = table.get(self.key, self._default) if isinstance(table, dict) else None
        if not isinstance(table, dict) or not isinstance(name, str):
            allowed = ", ".join(method.name for method in self)
            raise ValueError(f'give a name, or a table with {self.key} = "<name>"; allowed: {allowed}')
        try:
            method = self[name]
        except LookupError as error:
            raise ValueError(error.args[0]) from None
        return method.model_validate({key: value for key, value in table.items() if key != self.key})

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by ``parse``; write the value as its own class does."""
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.simple_ser_schema("any")
        )


MODELS = Registry["ModelSource"]("model source", "source", "pipeline.task.models")
DATASETS = Registry["DataSource"]("data set", "source", "pipeline.task.data")
METRICS = Registry["Metric"]("metric", "method", "pipeline.task.metrics", written_as_name=True)
COMPRESSIONS = Registry["Compression"]("compression", "method", "pipeline.compress.methods")
ADAPTERS = Registry["Adapter"]("adapter", "method", "pipeline.adapt.methods")
INITS = Registry["Init"]("init", "method", "pipeline.adapt.inits")
AUGMENTATIONS = Registry["Augmentation"]("augmentation", "method", "pipeline.task.augmentations", written_as_name=True)
LOSSES = Registry["Loss"]("loss", "method", "pipeline.train.losses")
OPTIMIZERS = Registry["Optimizer"]("optimizer", "method", "pipeline.train.optimizers", written_as_name=True)
SCHEDULES = Registry["Schedule"]("schedule", "method", "pipeline.train.schedules", written_as_name=True)
ALLOCATIONS = Registry["Allocation"]("allocation", "by", "pipeline.objective.allocations")
SAMPLERS = Registry["Sampler"]("sampler", "method", "pipeline.search.samplers", default="tpe")
PRUNERS = Registry["Pruner"]("pruner", "method", "pipeline.search.pruners", default="halving")

REGISTRIES = {name.lower(): value for name, value in list(globals().items()) if isinstance(value, Registry)}
"""Every registry, by the heading under which ``restora ls`` lists it: its name here."""
