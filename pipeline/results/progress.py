"""How far a search is, for all who show it; needs neither Optuna nor torch, so that verbs start at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.cell import Cell
from pipeline.numbers import covered_seconds
from pipeline.store.tally import Tally, trials_left

if TYPE_CHECKING:  # the table of ``status`` is read without Optuna
    from pipeline.results.combination_result import CombinationResult


@dataclass(frozen=True)
class CellProgress:
    """How far a cell is. Trials of all runs are counted, interrupted ones not.

    ``epoch`` is the epochs that the furthest running trial has completed, ``best`` the highest value of a complete one.
    """

    rank: int
    init: str
    budget: int
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    epoch: int = 0
    best: float | None = None

    @property
    def done(self) -> int:
        """Trials that the budget counts."""
        return self.complete + self.pruned

    @property
    def left(self) -> int:
        """Trials that the cell may still train."""
        return trials_left(self.done, self.failed, self.budget)

    @classmethod
    def of(cls, cell: Cell, budget: int, tally: Tally, epochs: Sequence[int]) -> "CellProgress":
        """From a cell's tally, and the epochs that each of its running trials has completed."""
        return cls(
            rank=cell.rank,
            init=cell.init,
            budget=budget,
            complete=tally.states["complete"],
            pruned=tally.states["pruned"],
            failed=tally.states["fail"],
            running=len(epochs),
            epoch=max(epochs, default=0),
            best=tally.best,
        )


@dataclass(frozen=True)
class Progress:
    """How far a combination is; ``epochs`` are those of a complete trial, ``unit`` is what ranks are budgets of."""

    cells: tuple[CellProgress, ...]
    epochs: int
    metric: str = "accuracy"
    unit: str | None = None

    @property
    def done(self) -> int:
        return sum(cell.done for cell in self.cells)

    @property
    def budget(self) -> int:
        return sum(cell.budget for cell in self.cells)

    @property
    def left(self) -> int:
        """Trials that its cells may still train; 0 once each has met its budget or is exhausted."""
        return sum(cell.left for cell in self.cells)

    @property
    def pruned(self) -> int:
        return sum(cell.pruned for cell in self.cells)

    @property
    def failed(self) -> int:
        return sum(cell.failed for cell in self.cells)

    @property
    def running(self) -> int:
        return sum(cell.running for cell in self.cells)

    @property
    def epoch(self) -> int:
        return max((cell.epoch for cell in self.cells), default=0)

    @property
    def parts(self) -> float:
        """Completed epochs of running trials, as trials: a trial with 3 of 9 epochs counts a third."""
        return sum(cell.running * cell.epoch for cell in self.cells) / self.epochs

    @property
    def remaining(self) -> float:
        """Trials left, without the completed parts of running ones."""
        return self.left - self.parts

    @property
    def best_cell(self) -> CellProgress | None:
        """The first cell with the highest value; None before a trial is complete."""
        cells = [cell for cell in self.cells if cell.best is not None]
        return max(cells, key=lambda cell: cell.best or 0.0, default=None)

    @property
    def best(self) -> float | None:
        return self.best_cell.best if self.best_cell else None


def progress_of(combination: Mapping[str, Any]) -> Progress:
    """The progress of a combination, from its part of the table of ``status``."""
    cells = tuple(
        CellProgress.of(
            Cell(cell["rank"], cell["init"]),
            cell["budget"],
            Tally.from_table(cell),
            [cell["epoch"]] * cell["states"]["running"],
        )
        for cell in combination["cells"]
    )
    return Progress(cells, combination["epochs"], combination["metric"], combination["unit"])


def total(tallies: Iterable[Tally]) -> Tally:
    """What the trials of several cells came to together; it names no winner."""
    summed = Tally()
    for tally in tallies:
        summed.states.update(tally.states)
        summed.reasons.update(tally.reasons)
        summed.interrupted.update(tally.interrupted)
    return summed


@dataclass(frozen=True)
class Standing:
    """How far some combinations are together."""

    done: int
    """Trials of the budgets that are complete or pruned, or that exhausted cells will not train."""
    budget: int
    running: int
    """Trials that began and have not ended; a run that was killed leaves some."""
    tested: bool
    """Whether every winner is tested."""
    seconds: float
    """Time during which at least one trial was trained, without pauses between runs."""
    latest: datetime | None
    """When the last trial ended."""

    @property
    def finished(self) -> bool:
        return self.done >= self.budget and self.tested


def standing(results: "Sequence[CombinationResult]") -> Standing:
    """How far some combinations are together; reads all their trials."""
    cells = [cell for result in results for cell in result.cells]
    spans = [
        (trial.datetime_start, trial.datetime_complete)
        for result in results
        for trial in result.trials()
        if trial.datetime_start and trial.datetime_complete
    ]
    return Standing(
        done=sum(cell.budget - cell.tally.left(cell.budget) for cell in cells),
        budget=sum(cell.budget for cell in cells),
        running=total(cell.tally for cell in cells).states["running"],
        tested=all(cell.test for cell in cells if cell.best),
        seconds=covered_seconds(spans),
        latest=max((end for _, end in spans), default=None),
    )
