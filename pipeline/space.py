"""The values of a trial, and the space in which they are searched."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from pipeline.cell import UNRANKED, Cell
from pipeline.config.fields import Range
from pipeline.config.registry import LOSSES, PRUNERS
from pipeline.config.search_spec import SearchSpec

if TYPE_CHECKING:  # reading a stored study needs no torch
    from pipeline.adapt.contract import Adapter


@dataclass(frozen=True)
class Values:
    """The values of one trial. A value that the trial's adapter does not search has its default."""

    rank: int
    """Rank of the adapter, or a budget if an allocation spreads ranks."""
    init: str
    alpha: float = 1.0
    optimizer: str = "adam"
    lr: float = 1e-3
    batch_size: int = 256
    extra: Mapping[str, float] = field(default_factory=dict)
    """The adapter's own values, by the names in ``Adapter.space``."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Values":
        """From Optuna's parameters."""
        names = {field.name for field in fields(cls)}
        known = {name: value for name, value in params.items() if name in names}
        return cls(**known, extra={name: value for name, value in params.items() if name not in names})

    @property
    def cell(self) -> Cell:
        return Cell(self.rank, self.init)

    def params(self) -> dict[str, Any]:
        """As Optuna's parameters."""
        return {**{name: value for name, value in vars(self).items() if name != "extra"}, **self.extra}


@dataclass(frozen=True, eq=False)
class Ask:
    """A trial that a cell's history asks for; ``number`` counts in that history.

    ``origin`` is what chose its values: ``score``, ``start-up``, ``neighbour`` or ``sampler``.
    """

    cell: Cell
    number: int
    origin: str
    values: Values
    asked: datetime = field(default_factory=datetime.now)


def fitted(search: SearchSpec, adapter: "Adapter") -> SearchSpec:
    """The study's search as it applies to an adapter.

    An adapter without ranks has one cell, so its search has no allocation and no scores. An adapter that trains nothing
    trains one epoch, which no pruner ends. A cell has no more trials than different values.
    """
    if not adapter.low_rank:
        search = search.having().model_copy(update={"ranks": (0,), "allocation": None, "queued": 0})
    if not adapter.trains:
        startup = search.sampler.model_copy(update={"startup": 1})
        plain = {"epochs": 1, "warmup": 0.0, "loss": LOSSES.parse("cross-entropy"), "pruner": PRUNERS.parse("none")}
        search = search.model_copy(update={"sampler": startup, **plain})
    different = points(cell_space(search, adapter))
    if different is not None and len(different) < search.trials:
        search = search.model_copy(update={"trials": len(different)})
    return search


def cells(search: SearchSpec) -> list[Cell]:
    """All cells, ordered by rank."""
    return [Cell(rank, init) for rank in search.ranks for init in _inits(search)]


def _inits(search: SearchSpec) -> list[str]:
    return [init.name for init in search.inits] or [UNRANKED]


def _float(range_: Range) -> FloatDistribution:
    return FloatDistribution(range_.low, range_.high, log=range_.log)


def cell_space(search: SearchSpec, adapter: "Adapter") -> dict[str, BaseDistribution]:
    """The search space within a cell: Optuna's distributions by the names of ``Values``."""
    if not adapter.trains:
        return {}
    return {
        **({"alpha": _float(search.alpha)} if adapter.low_rank else {}),
        "optimizer": CategoricalDistribution([optimizer.name for optimizer in search.optimizer]),
        "lr": _float(search.lr),
        "batch_size": CategoricalDistribution(search.batch_size),
        **{name: _float(range_) for name, range_ in adapter.space.items()},
    }


def points(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]] | None:
    """All different values of a space, the last parameter varying fastest; None if a range has too many to list."""
    choices = []
    for distribution in space.values():
        if isinstance(distribution, CategoricalDistribution):
            choices.append(distribution.choices)
        elif distribution.single():
            choices.append((cast(FloatDistribution, distribution).low,))
        else:
            return None
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]


def middle(cell: Cell, search: SearchSpec, adapter: "Adapter") -> Values:
    """The middle of a cell's space: of each range (of its logarithm if that is searched), and the first of choices."""
    middles: dict[str, Any] = {}
    for name, distribution in cell_space(search, adapter).items():
        if isinstance(distribution, FloatDistribution):
            low, high = distribution.low, distribution.high
            mean = math.sqrt(low * high) if distribution.log else (low + high) / 2
            middles[name] = min(max(mean, low), high)  # the root may round to a value outside
        else:
            middles[name] = cast(CategoricalDistribution, distribution).choices[0]
    return Values.of({"rank": cell.rank, "init": cell.init, **middles})


def full_space(search: SearchSpec, adapter: "Adapter") -> dict[str, BaseDistribution]:
    """The search space of a combination: its cells, and the space within a cell."""
    return {
        "rank": CategoricalDistribution(search.ranks),
        "init": CategoricalDistribution(_inits(search)),
        **cell_space(search, adapter),
    }


def suggest(trial: optuna.Trial, search: SearchSpec, adapter: "Adapter") -> Values:
    """The values that an Optuna trial suggests in the space of a combination."""
    chosen: dict[str, Any] = {}
    for name, distribution in full_space(search, adapter).items():
        if isinstance(distribution, FloatDistribution):
            low, high = distribution.low, distribution.high
            chosen[name] = trial.suggest_float(name, low, high, log=distribution.log)
        else:
            chosen[name] = trial.suggest_categorical(name, cast(CategoricalDistribution, distribution).choices)
    return Values.of(chosen)
