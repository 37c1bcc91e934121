"""What a trial's values are, and where they are searched."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from pipeline.config.fields import Range
from pipeline.config.registry import LOSSES
from pipeline.config.search_spec import SearchSpec
from pipeline.wording import UNRANKED

if TYPE_CHECKING:  # reading a stored study needs no torch
    from pipeline.adapt.contract import Adapter


@dataclass(frozen=True, order=True)
class Cell:
    """One (rank, init) of a combination: it has its own budget, sampler and pruner history."""

    rank: int
    init: str

    def __str__(self) -> str:
        return f"rank {self.rank} {self.init}"

    @property
    def winner_key(self) -> str:
        """The stored study's attribute that holds what is known of this cell's winner."""
        return f"winner {self}"


@dataclass(frozen=True)
class Values:
    """One set of values, to be trained; those that its adapter does not search are as they stand here.

    Args:
        extra: Of each name in ``Adapter.space``.
    """

    rank: int
    init: str
    alpha: float = 1.0
    optimizer: str = "adam"
    lr: float = 1e-3
    batch_size: int = 256
    extra: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Values":
        """From Optuna's parameters."""
        own = {each.name for each in fields(cls)}
        known = {name: value for name, value in params.items() if name in own}
        return cls(**known, extra={name: value for name, value in params.items() if name not in own})

    @property
    def cell(self) -> Cell:
        return Cell(self.rank, self.init)

    def params(self) -> dict[str, Any]:
        """As Optuna's parameters."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "extra"}
        return {**own, **self.extra}


@dataclass(frozen=True, eq=False)
class Ask:
    """A trial of a cell's history that was asked for.

    Args:
        cell: Its cell.
        number: Its number in the cell's history.
        origin: Who chose its values: ``score``, ``start-up``, ``neighbour`` or ``sampler``.
        values: What is to be trained.
        asked: When.
    """

    cell: Cell
    number: int
    origin: str
    values: Values
    asked: datetime = field(default_factory=datetime.now)


def fitted(search: SearchSpec, adapter: "Adapter") -> SearchSpec:
    """A study's search as a combination takes it: one cell without ranks, and one trial where nothing is trained.

    Without ranks there is nothing to spread a budget over, and no cell to score against others.
    """
    if not adapter.low_rank:
        search = search.model_copy(update={"ranks": (0,), "inits": (), "allocation": None, "queued": 0})
    if not adapter.trains:
        startup = search.sampler.model_copy(update={"startup": 1})
        plain = {"epochs": 1, "warmup": 0.0, "loss": LOSSES.parse("cross-entropy")}
        search = search.model_copy(update={"trials": 1, "sampler": startup, **plain})
    return search


def cells(search: SearchSpec) -> list[Cell]:
    """All cells, ranks first."""
    return [Cell(rank, init) for rank in search.ranks for init in _inits(search)]


def _inits(search: SearchSpec) -> list[str]:
    return [init.name for init in search.inits] or [UNRANKED]


def _float(range_: Range) -> FloatDistribution:
    return FloatDistribution(range_.low, range_.high, log=range_.log)


def cell_space(search: SearchSpec, adapter: "Adapter") -> dict[str, BaseDistribution]:
    """What is searched within a cell."""
    if not adapter.trains:
        return {}
    return {
        **({"alpha": _float(search.alpha)} if adapter.low_rank else {}),
        "optimizer": CategoricalDistribution([optimizer.name for optimizer in search.optimizer]),
        "lr": _float(search.lr),
        "batch_size": CategoricalDistribution(search.batch_size),
        **{name: _float(range_) for name, range_ in adapter.space.items()},
    }


def middle(cell: Cell, search: SearchSpec, adapter: "Adapter") -> Values:
    """The middle of every range of a cell, that of its logarithm where that is searched; of choices the first."""
    space = cell_space(search, adapter)
    return Values.of({"rank": cell.rank, "init": cell.init, **{name: _middle(each) for name, each in space.items()}})


def _middle(each: BaseDistribution) -> Any:
    if not isinstance(each, FloatDistribution):
        return cast(CategoricalDistribution, each).choices[0]
    centre = math.sqrt(each.low * each.high) if each.log else (each.low + each.high) / 2
    return min(max(centre, each.low), each.high)  # a root rounds


def full_space(search: SearchSpec, adapter: "Adapter") -> dict[str, BaseDistribution]:
    """What is searched in a combination: the cell, and the values within it."""
    return {
        "rank": CategoricalDistribution(search.ranks),
        "init": CategoricalDistribution(_inits(search)),
        **cell_space(search, adapter),
    }


def suggest(trial: optuna.Trial, search: SearchSpec, adapter: "Adapter") -> Values:
    """Ask any Optuna trial for all values of a combination."""
    return Values.of({name: _suggest(trial, name, each) for name, each in full_space(search, adapter).items()})


def _suggest(trial: optuna.Trial, name: str, each: BaseDistribution) -> Any:
    if isinstance(each, FloatDistribution):
        return trial.suggest_float(name, each.low, each.high, log=each.log)
    return trial.suggest_categorical(name, cast(CategoricalDistribution, each).choices)


def cell_of(params: Mapping[str, Any]) -> Cell:
    """The cell of a trial's parameters."""
    return Cell(params["rank"], params["init"])
