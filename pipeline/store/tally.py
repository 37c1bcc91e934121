"""What the trials of a cell came to, counted the same by whoever writes and by whoever reads."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline.space import Cell, cell_of
from pipeline.store.summary import STATES, cell_summary


def tells(attributes: Mapping[str, Any]) -> bool:
    """Whether a trial that ended was asked for by a cell's history, and not interrupted."""
    return "interrupted" not in attributes and "ask" in attributes


@dataclass
class Tally:
    """What the trials of one cell came to.

    Args:
        seen: Trials by state, interrupted ones left out.
        reasons: Why trials failed, and how often.
        interrupted: What interrupted others with their run, and how often; those are tried again.
        best: The highest value of a complete trial.
        trial: The number of the first trial that has it.
    """

    seen: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    best: float | None = None
    trial: int | None = None

    def add(self, state: TrialState, number: int, value: float | None, attributes: Mapping[str, Any]) -> None:
        """Count a trial."""
        if not state.is_finished() or tells(attributes):
            self.seen[state.name.lower()] += 1
        if "reason" in attributes:
            reasons = self.interrupted if "interrupted" in attributes else self.reasons
            reasons[attributes["reason"]] += 1
        if state == TrialState.COMPLETE:
            value = value or 0.0
            if self.best is None or self.trial is None or (value, -number) > (self.best, -self.trial):
                self.best, self.trial = value, number

    @property
    def states(self) -> dict[str, int]:
        """Trials of each state that a status shows."""
        return {state: self.seen[state] for state in STATES}

    def summary(self) -> dict[str, Any]:
        """What is stored of it."""
        return cell_summary(self.states, self.reasons, self.interrupted, self.best, self.trial)


def tally(trials: Iterable[FrozenTrial]) -> defaultdict[Cell, Tally]:
    """The tally of each cell; trials of none, queued or asked for outside a run, are left out."""
    tallies: defaultdict[Cell, Tally] = defaultdict(Tally)
    for trial in filter(has_cell, trials):
        tallies[cell_of(trial.params)].add(trial.state, trial.number, trial.value, trial.user_attrs)
    return tallies


def has_cell(trial: FrozenTrial) -> bool:
    """Whether a trial names its rank and init; one that is queued, or that someone else asked for, may not."""
    return {"rank", "init"} <= trial.params.keys()
