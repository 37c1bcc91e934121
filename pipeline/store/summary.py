"""The short summary of each cell that the ledger writes and ``status`` reads; importing this needs no Optuna.

The ledger writes it in the transaction of every trial that begins or ends, with the number of trials of each state that
it covers. Trials only ever begin and end, so where those numbers are the database's, nothing happened since.
"""

import json
from collections.abc import Mapping
from typing import Any

STATES = ("complete", "pruned", "fail", "running")
COVERED = "summary covers"
"""The stored study's attribute that counts the trials of each state which its summaries cover.

Older summaries, which count interrupted trials among the failed ones, have theirs under another name: such a study is
read in full.
"""
DAMAGED = (LookupError, TypeError, ValueError, AttributeError)
"""What reading a damaged study raises: text that is not JSON, keys that are missing, values of another type."""
Place = tuple[int, str]
"""Rank and init of a cell."""
MOST = 1700
"""Characters that why a cell's trials failed or were interrupted may take, so that no attribute is over 2 kB; more is
left out.
"""


def summary_key(cell: object) -> str:
    """The stored study's attribute that sums up a cell."""
    return f"summary {cell}"


def cell_summary(
    states: Mapping[str, int],
    reasons: Mapping[str, int],
    interrupted: Mapping[str, int],
    best: float | None,
    trial: int | None,
) -> dict[str, Any]:
    """What a cell came to; ``reasons`` and ``interrupted`` are None where they are too long to be kept."""
    short = len(json.dumps(reasons)) + len(json.dumps(interrupted)) <= MOST
    return {
        "states": dict(states),
        "best": best,
        "trial": trial,
        "reasons": dict(reasons) if short else None,
        "interrupted": dict(interrupted) if short else None,
    }


def stored_cells(facts: Mapping[str, Any]) -> list[Place]:
    """Rank and init of each cell of a stored study; one that does not say has every rank with every init."""
    search = facts["pinned"]["search"]
    every = [(rank, init["method"]) for rank in search["ranks"] for init in search["inits"]]
    return [(rank, init) for rank, init in facts.get("cells", every)]


def is_exhausted(states: Mapping[str, int], budget: int) -> bool:
    """Whether a cell ended short of its budget, because as many trials failed as the budget has."""
    return states["complete"] + states["pruned"] < budget <= states["fail"]
