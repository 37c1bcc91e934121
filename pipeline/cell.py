"""A cell: one rank and one init of a combination. Importing this needs neither Optuna nor torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNRANKED = "none"
"""The init of a cell whose adapter has none; its rank is 0."""


@dataclass(frozen=True, order=True)
class Cell:
    """One (rank, init) of a combination, with its own budget of trials and its own history for sampler and pruner."""

    rank: int
    """Rank of the adapter, or a budget if an allocation spreads ranks; 0 if the adapter has no rank."""
    init: str
    """Name of the init, or ``UNRANKED``."""

    def __str__(self) -> str:
        return f"rank {self.rank} {self.init}"

    @property
    def winner_key(self) -> str:
        """The attribute of the stored study that holds the test scores of this cell's winner."""
        return f"winner {self}"

    @property
    def layers_key(self) -> str:
        """The attribute of the stored study that holds what training made of the layers of this cell's winner."""
        return f"layers {self}"

    @property
    def summary_key(self) -> str:
        """The attribute of the stored study that holds this cell's tally."""
        return f"summary {self}"


def cell_of(params: Mapping[str, Any]) -> Cell:
    """The cell of a trial, by its parameters."""
    return Cell(params["rank"], params["init"])


def stored_cells(facts: Mapping[str, Any]) -> list[Cell]:
    """The cells of a stored study, by its attributes.

    A study without the attribute ``cells`` has every pinned rank with every pinned init.
    """
    search = facts["pinned"]["search"]
    every = [(rank, init["method"]) for rank in search["ranks"] for init in search["inits"]]
    return [Cell(rank, init) for rank, init in facts.get("cells", every)]
