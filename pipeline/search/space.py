"""What a trial's values are, and where they are searched."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from pipeline.spec import OptimizerName, Range, SearchSpec


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
    """One set of values, to be trained."""

    rank: int
    init: str
    alpha: float
    optimizer: OptimizerName
    lr: float
    batch_size: int

    @property
    def cell(self) -> Cell:
        return Cell(self.rank, self.init)

    def params(self) -> dict[str, Any]:
        """As Optuna's parameters."""
        return asdict(self)


def cells(search: SearchSpec) -> list[Cell]:
    """All cells, ranks first."""
    return [Cell(rank, init.name) for rank in search.ranks for init in search.inits]


def _float(range_: Range) -> FloatDistribution:
    return FloatDistribution(range_.low, range_.high, log=range_.log)


def cell_space(search: SearchSpec) -> dict[str, BaseDistribution]:
    """What is searched within a cell."""
    return {
        "alpha": _float(search.alpha),
        "optimizer": CategoricalDistribution(search.optimizer),
        "lr": _float(search.lr),
        "batch_size": CategoricalDistribution(search.batch_size),
    }


def full_space(search: SearchSpec) -> dict[str, BaseDistribution]:
    """What is searched in a combination: the cell, and the values within it."""
    return {
        "rank": CategoricalDistribution(search.ranks),
        "init": CategoricalDistribution([init.name for init in search.inits]),
        **cell_space(search),
    }


def suggest(trial: optuna.Trial, search: SearchSpec) -> Values:
    """Ask any Optuna trial for all values of a combination."""
    return Values(
        rank=trial.suggest_categorical("rank", search.ranks),
        init=trial.suggest_categorical("init", [init.name for init in search.inits]),
        alpha=trial.suggest_float("alpha", search.alpha.low, search.alpha.high, log=search.alpha.log),
        optimizer=trial.suggest_categorical("optimizer", search.optimizer),
        lr=trial.suggest_float("lr", search.lr.low, search.lr.high, log=search.lr.log),
        batch_size=trial.suggest_categorical("batch_size", search.batch_size),
    )


def cell_of(params: Mapping[str, Any]) -> Cell:
    """The cell of a trial's parameters."""
    return Cell(params["rank"], params["init"])
