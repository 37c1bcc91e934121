"""What one combination of a study came to, as plain values for status, report and export."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NotRequired, TypedDict

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.cell import Cell
from pipeline.numbers import wilson
from pipeline.results.study_state import is_uneven
from pipeline.store.stored_study import joined
from pipeline.store.tally import Tally, has_cell


@dataclass(frozen=True)
class Score:
    """The correct answers of a model on one part of the data."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson(self.correct, self.images)


def mean_accuracy(scores: Iterable[Score]) -> float:
    return fmean(score.accuracy for score in scores)


@dataclass(frozen=True)
class Tested:
    """A winner's scores under one seed; the first seed is that of the study."""

    seed: int
    val: Score
    test: Score


class LayerBytes(TypedDict):
    """Bytes of one compressed layer."""

    name: str
    dense: int
    """The original layer with its bias."""
    payload: int
    """The compressed weight without indices and scales."""
    index: int
    scale: int
    bias: int
    adapter: dict[str, int]
    """The adapter of each rank; ranks are strings, because they are keys in JSON."""
    cells: NotRequired[dict[str, dict[str, int]]]
    """All parts in those cells whose init moves a base that is sized by its values, by the cell's name."""


@dataclass(frozen=True)
class CellResult:
    """One cell of a combination.

    Args:
        epoch: Epochs that its furthest running trial has behind it.
        best: Its winner: the complete trial with the highest validation accuracy, the first of equals.
        tested: The winner's scores by seed; empty until it is tested.
        failed_seeds: Why training the winner again failed, by seed.
    """

    cell: Cell
    budget: int
    tally: Tally
    epoch: int
    best: FrozenTrial | None
    tested: tuple[Tested, ...]
    failed_seeds: Mapping[int, str]

    @property
    def winner(self) -> FrozenTrial:
        """``best``, for a cell that has one."""
        if self.best is None:
            raise ValueError(f"{self.cell} has no complete trial")
        return self.best

    @property
    def exhausted(self) -> bool:
        return self.tally.exhausted(self.budget)

    @property
    def begun(self) -> bool:
        return any(self.tally.states.values())

    @property
    def test(self) -> Score | None:
        """The winner's score on the test part under the study's own seed: that of the exported checkpoint."""
        return self.tested[0].test if self.tested else None

    def test_spread(self) -> tuple[float, float] | None:
        """Mean and standard deviation of test accuracy over seeds, if there are several."""
        scores = [tested.test for tested in self.tested]
        return (mean_accuracy(scores), stdev(score.accuracy for score in scores)) if len(scores) > 1 else None


@dataclass(frozen=True)
class CombinationResult:
    """One combination of a study.

    Args:
        label: Its name for people: with the study's name before it if several studies are shown together.
        baseline: Scores of the uncompressed model by part, ``val`` and ``test``.
        compressed: Scores of the compressed-only model (no adapter) by part.
        facts: User attributes of the stored study, such as ``dense_bytes``, ``compressed_bytes`` and ``dense_macs``.
    """

    name: str
    label: str
    study: optuna.Study
    baseline: Mapping[str, Score]
    compressed: Mapping[str, Score]
    facts: Mapping[str, Any]
    cells: tuple[CellResult, ...]

    @property
    def of(self) -> str:
        """The name of its study."""
        return self.study.study_name.partition("/")[0]

    @property
    def metric(self) -> str:
        """``accuracy``, or ``agreement`` with the answers of the original model."""
        return str(self.facts.get("task", {}).get("metric", "accuracy"))

    @property
    def largest_class(self) -> Mapping[str, Score]:
        """Scores by part of a model that always answers the largest class; empty for studies before version 0.3."""
        return {part: Score(*scores) for part, scores in self.facts.get("largest_class", {}).items()}

    @property
    def is_uneven(self) -> bool:
        """Whether the largest class has so many images that accuracies have to be read beside its share."""
        return is_uneven(self.facts)

    @property
    def budget_unit(self) -> str | None:
        """What ranks are budgets of, ``bytes`` or ``parameters``, if an allocation spreads them; otherwise None."""
        allocation = self.facts["pinned"]["search"].get("allocation")
        return str(allocation["unit"]) if allocation and any(cell.cell.rank for cell in self.cells) else None

    @property
    def is_coded(self) -> bool:
        """Whether its files are entropy-coded, so that they are smaller than their tensors."""
        storage = self.facts["pinned"].get("combination", {}).get("storage") or {}
        return bool(storage.get("coding", "none") != "none")

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Its stored trials that have a cell, of some states or of all, in the order in which they were stored."""
        return list(filter(has_cell, self.study.get_trials(deepcopy=False, states=states or None)))

    def layer_sizes(self) -> list[LayerBytes]:
        """Its compressed layers in the model's order; empty if a version before 0.1 ran the study."""
        text = joined(self.facts, "layers")
        return [] if text is None else json.loads(text)

    def best_of_ranks(self) -> dict[int, CellResult]:
        """For each rank the cell whose winner has the highest validation accuracy: the rank's checkpoint."""
        best: dict[int, CellResult] = {}
        for cell in self.cells:
            other = best.get(cell.cell.rank)
            if cell.best and (other is None or (cell.tally.best or 0.0) > (other.tally.best or 0.0)):
                best[cell.cell.rank] = cell
        return best

    def best_cell(self) -> CellResult | None:
        """The cell whose winner has the highest validation accuracy, the first of equals."""
        found = (cell for cell in self.cells if cell.best)
        return max(found, key=lambda cell: cell.tally.best or 0.0, default=None)


def by_study(results: Iterable[CombinationResult]) -> dict[str, list[CombinationResult]]:
    """The combinations of each study by its name, both in the order in which they come."""
    studies: dict[str, list[CombinationResult]] = {}
    for result in results:
        studies.setdefault(result.of, []).append(result)
    return studies


def bytes_with_adapter(layer: LayerBytes, cell: Cell | None) -> dict[str, int]:
    """Bytes of each part of a layer: ``payload``, ``index``, ``scale``, ``bias`` and a cell's ``adapter``, if any."""
    if cell is not None and str(cell) in layer.get("cells", {}):
        return layer["cells"][str(cell)]
    parts = {kind: layer[kind] for kind in ("payload", "index", "scale", "bias")}
    return {**parts, "adapter": layer["adapter"].get(str(cell.rank), 0) if cell else 0}


def latest_run(results: Sequence[CombinationResult]) -> Mapping[str, Any] | None:
    """The latest run of some combinations: its ``command``, ``began`` and ``done``; None if no run is stored."""
    runs = (result.facts["run"] for result in results if "run" in result.facts)
    return max(runs, key=lambda run: str(run["began"]), default=None)
