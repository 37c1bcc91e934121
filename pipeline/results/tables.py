"""The tables of a study: the table of ``status``, and the rows of the CSV files and of the page.

The keys of a row are the columns of its CSV file, in this order. A field is None, and its cell in the file empty, if it
is unknown: no trial has finished, or none is tested.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from optuna.trial import FrozenTrial

from pipeline.paths import write_whole
from pipeline.results.combination_result import CellResult, CombinationResult, Score
from pipeline.results.comparison import cell_recovery
from pipeline.results.study_state import status_part, status_row
from pipeline.space import Values


class EvaluationRow(TypedDict):
    """The winner of one cell beside the original and the compressed-only model. Accuracies are from 0 to 1."""

    study: str
    combination: str
    rank: int
    init: str
    trial: int | None
    checkpoint: bool
    """Whether its winner has the highest validation accuracy of its rank."""
    alpha: float | None
    optimizer: str | None
    lr: float | None
    batch_size: int | None
    extra: str
    """Values that are searched for its adapter alone, as ``sigma=0.01``."""
    bytes: int | None
    """Bytes of the packed model with its adapter."""
    ratio: float | None
    """Bytes of the original divided by those of the packed model."""
    layer_ratio: float | None
    """The same for the compressed layers alone."""
    macs_ratio: float | None
    """Multiply-accumulates per image of the original divided by those of the packed model."""
    trainable: int | None
    """Trained parameters."""
    original_val: float | None
    original_test: float | None
    compressed_val: float | None
    """The compressed-only model (no adapter)."""
    compressed_test: float | None
    largest_class_val: float | None
    """The share of the largest class, which a model reaches that always answers it."""
    largest_class_test: float | None
    recovered_val: float | None
    recovered_test: float | None
    """The winner under the study's own seed, which is exported."""
    test_low: float | None
    """Lower end of the 95 % Wilson interval of ``recovered_test``."""
    test_high: float | None
    recovery: float | None
    """``(recovered - compressed) / (original - compressed)`` on the test part, with the mean over seeds as recovered;
    None if compression lost no more than chance explains."""
    seeds: int
    """Seeds under which the winner was trained and tested."""
    failed_seeds: int
    """Seeds under which training it again failed."""
    test_mean: float | None
    """Mean test accuracy over seeds, where there are several."""
    test_std: float | None
    best_epoch: int | None
    """The epoch, from 1, of highest validation accuracy."""


class TrialRow(TypedDict):
    """One trial of any state."""

    study: str
    combination: str
    trial: int
    state: str
    rank: int
    init: str
    alpha: float | None
    optimizer: str | None
    lr: float | None
    batch_size: int | None
    extra: str
    """Values that are searched for its adapter alone, as ``sigma=0.01``."""
    value: float | None
    """Validation accuracy at the best epoch of a complete trial."""
    epochs: int
    """Epochs that were trained."""
    best_epoch: int | None
    bytes: int | None
    ratio: float | None
    trainable: int | None
    seconds: float | None
    peak_memory: int | None
    """Bytes."""
    device: str | None
    seed: int | None
    origin: str | None
    """Who chose the values: ``score``, ``start-up``, ``neighbour`` or ``sampler``."""
    interrupted: bool
    """Whether the run ended before the trial did; such a trial counts nowhere."""
    reason: str | None
    """Why it failed."""


class EpochRow(TypedDict):
    """One epoch of a cell's winner."""

    study: str
    combination: str
    rank: int
    init: str
    trial: int
    epoch: int
    """From 1."""
    train_loss: float
    val_loss: float
    val_accuracy: float
    best: bool
    """Whether the trial's adapter is the one after this epoch."""


def status_table(results: Sequence[CombinationResult]) -> list[dict[str, Any]]:
    """How far each combination and its cells are, as JSON has it."""
    return [status_part(result.name, result.facts, [_status(cell) for cell in result.cells]) for result in results]


def _status(cell: CellResult) -> dict[str, Any]:
    return status_row(cell.cell, cell.budget, cell.tally.as_table(), tested=bool(cell.tested), epoch=cell.epoch)


def evaluation_rows(results: Sequence[CombinationResult]) -> list[EvaluationRow]:
    """One row per cell: its winner beside the original and the compressed-only model."""
    return [
        _evaluation_row(result, cell, checkpoints.get(cell.cell.rank) is cell)
        for result in results
        for checkpoints in [result.best_of_ranks()]
        for cell in result.cells
    ]


def _evaluation_row(result: CombinationResult, cell: CellResult, is_checkpoint: bool) -> EvaluationRow:
    low, high = cell.test.interval if cell.test else (None, None)
    mean, std = cell.test_spread() or (None, None)
    row = {
        **_stored(EvaluationRow, cell.best),
        "study": result.of,
        "combination": result.name,
        "rank": cell.cell.rank,
        "init": cell.cell.init,
        "trial": cell.best.number if cell.best else None,
        "checkpoint": is_checkpoint,
        "original_val": _accuracy(result.baseline, "val"),
        "original_test": _accuracy(result.baseline, "test"),
        "compressed_val": _accuracy(result.compressed, "val"),
        "compressed_test": _accuracy(result.compressed, "test"),
        "largest_class_val": _accuracy(result.largest_class, "val"),
        "largest_class_test": _accuracy(result.largest_class, "test"),
        "recovered_val": cell.best.value if cell.best else None,
        "recovered_test": cell.test.accuracy if cell.test else None,
        "test_low": low,
        "test_high": high,
        "recovery": cell_recovery(result, cell, "test"),
        "seeds": len(cell.tested),
        "failed_seeds": len(cell.failed_seeds),
        "test_mean": mean,
        "test_std": std,
    }
    return cast(EvaluationRow, row)


def _stored(kind: type, trial: FrozenTrial | None) -> dict[str, Any]:
    """The columns of a table that are parameters or user attributes of a trial; None where the trial has none."""
    known = {**trial.user_attrs, **trial.params} if trial else {}
    extra = Values.of(trial.params).extra if trial else {}
    columns = {column: known.get(column) for column in kind.__annotations__}
    return columns | {"extra": " ".join(f"{name}={value:.4g}" for name, value in extra.items())}


def _accuracy(scores: Mapping[str, Score], part: str) -> float | None:
    return scores[part].accuracy if part in scores else None


def trial_rows(results: Sequence[CombinationResult]) -> list[TrialRow]:
    """One row per trial of a cell, in the order in which trials were stored."""
    rows = [
        {
            **_stored(TrialRow, trial),
            "study": result.of,
            "combination": result.name,
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "epochs": len(trial.intermediate_values),
            "interrupted": "interrupted" in trial.user_attrs,
        }
        for result in results
        for trial in result.trials()
    ]
    return cast(list[TrialRow], rows)


def epoch_rows(results: Sequence[CombinationResult]) -> list[EpochRow]:
    """One row per epoch of each cell's winner."""
    return [
        EpochRow(
            study=result.of,
            combination=result.name,
            rank=cell.cell.rank,
            init=cell.cell.init,
            trial=cell.best.number,
            epoch=epoch,
            train_loss=cell.best.user_attrs["train_loss"][epoch - 1],
            val_loss=cell.best.user_attrs["val_loss"][epoch - 1],
            val_accuracy=accuracy,
            best=epoch == cell.best.user_attrs["best_epoch"],
        )
        for result in results
        for cell in result.cells
        if cell.best
        for epoch, accuracy in sorted(cell.best.intermediate_values.items())
    ]


def write_csv(path: Path, kind: type, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of one class, such as ``TrialRow``; the header alone if there are none."""

    def write(target: Path) -> None:
        with target.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.DictWriter(file, kind.__annotations__)
            table.writeheader()
            table.writerows(rows)

    write_whole(path, write)
