"""The tally: what the trials of a cell came to. Nothing else counts trials.

The ledger stores the tally of a cell in the transaction of every trial that begins or ends, together with the number of
trials per state that all tallies cover. ``status`` reads these alone where they cover all trials of the database, and
all trials otherwise. Importing this file needs neither Optuna nor torch.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.cell import Cell, cell_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

STATES = ("complete", "pruned", "fail", "running")
COVERED = "summary covers"
"""The attribute of a stored study with the number of trials per state that its tallies cover.

Tallies of versions before 0.1 counted interrupted trials as failed, under another name; such a study is read in full.
"""
LONGEST = 1700
"""Characters that the reasons of a stored tally may take as JSON, so that no attribute exceeds 2 kB."""
DAMAGED = (LookupError, TypeError, ValueError, AttributeError)
"""What reading a damaged study raises: text that is not JSON, keys that are missing, values of another type."""


def trials_left(done: int, failed: int, budget: int) -> int:
    """Trials that a cell may still train: those of its budget that are not done; none once it is exhausted."""
    return max(0, budget - done) if failed < budget else 0


@dataclass
class Tally:
    """What the trials of one cell came to, over all runs.

    Args:
        states: Trials by state, one of ``STATES``, without those that were interrupted.
        reasons: How often trials failed for each reason.
        interrupted: How often trials were interrupted with their run, by its reason; their values are asked for again.
        best: The highest value of a complete trial, from 0 to 1.
        trial: The number of the winner: the first trial of that value.
    """

    states: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STATES, 0)))
    reasons: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    best: float | None = None
    trial: int | None = None

    @property
    def done(self) -> int:
        """Trials that the budget counts."""
        return self.states["complete"] + self.states["pruned"]

    def left(self, budget: int) -> int:
        return trials_left(self.done, self.states["fail"], budget)

    def exhausted(self, budget: int) -> bool:
        """Whether the cell ended short of its budget, because as many of its trials failed as the budget has."""
        return self.done < budget <= self.states["fail"]

    def add(self, state: "TrialState", number: int, value: float | None, attributes: Mapping[str, Any]) -> None:
        """Count a trial. Of its user attributes ``ask``, ``interrupted`` and ``reason`` matter."""
        if not state.is_finished() or belongs_to_history(attributes):
            self.states[state.name.lower()] += 1
        if "reason" in attributes:
            reasons = self.interrupted if "interrupted" in attributes else self.reasons
            reasons[attributes["reason"]] += 1
        if state.name == "COMPLETE":
            value = value or 0.0
            if self.best is None or self.trial is None or (value, -number) > (self.best, -self.trial):
                self.best, self.trial = value, number

    def as_table(self) -> dict[str, Any]:
        """The tally as JSON has it."""
        return {
            "states": {state: self.states[state] for state in STATES},
            "best": self.best,
            "trial": self.trial,
            "reasons": dict(self.reasons),
            "interrupted": dict(self.interrupted),
        }

    def stored(self) -> dict[str, Any]:
        """The attribute that the ledger stores; reasons and interruptions are None where they are too long."""
        short = len(json.dumps(self.reasons)) + len(json.dumps(self.interrupted)) <= LONGEST
        return self.as_table() | ({} if short else {"reasons": None, "interrupted": None})

    @classmethod
    def from_table(cls, stored: Mapping[str, Any]) -> "Tally":
        """The tally of ``as_table`` or of a stored attribute, without reasons where they were too long."""
        reasons, interrupted = Counter(stored["reasons"] or {}), Counter(stored["interrupted"] or {})
        return cls(Counter(stored["states"]), reasons, interrupted, stored["best"], stored["trial"])


def belongs_to_history(attributes: Mapping[str, Any]) -> bool:
    """Whether a trial that ended was asked for by its cell's history, and was not interrupted."""
    return "interrupted" not in attributes and "ask" in attributes


def tally_trials(trials: "Iterable[FrozenTrial]") -> defaultdict[Cell, Tally]:
    """The tally of each cell."""
    tallies: defaultdict[Cell, Tally] = defaultdict(Tally)
    for trial in filter(has_cell, trials):
        tallies[cell_of(trial.params)].add(trial.state, trial.number, trial.value, trial.user_attrs)
    return tallies


def has_cell(trial: "FrozenTrial") -> bool:
    """Whether a trial has a rank and an init. One that is queued, or asked for by another program, may have none."""
    return {"rank", "init"} <= trial.params.keys()
