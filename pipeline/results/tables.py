"""The tables of a study: the table of ``status``, and the rows of the CSV files and of the page."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.paths import write_whole
from pipeline.results.combination_result import CellResult, CombinationResult, Score
from pipeline.results.comparison import cell_recovery
from pipeline.results.study_state import status_part, status_row
from pipeline.results.table_rows import EpochRow, EvaluationRow, TrialRow
from pipeline.space import Values


def status_table(results: Sequence[CombinationResult]) -> list[dict[str, Any]]:
    """How far each combination and its cells are, as JSON has it."""
    return [status_part(result.name, result.facts, [_status(cell) for cell in result.cells]) for result in results]


def _status(cell: CellResult) -> dict[str, Any]:
    return status_row(cell.cell, cell.budget, cell.tally.as_table(), tested=bool(cell.tested), epoch=cell.epoch)


def evaluation_rows(results: Sequence[CombinationResult]) -> list[EvaluationRow]:
    """One row per cell: its winner beside the original and the compressed-only model."""
    rows = []
    for result in results:
        checkpoints = result.best_of_ranks()
        for cell in result.cells:
            rows.append(_evaluation_row(result, cell, checkpoints.get(cell.cell.rank) is cell))
    return rows


def _evaluation_row(result: CombinationResult, cell: CellResult, checkpoint: bool) -> EvaluationRow:
    params: Mapping[str, Any] = cell.best.params if cell.best else {}
    facts: Mapping[str, Any] = cell.best.user_attrs if cell.best else {}
    low, high = cell.test.interval if cell.test else (None, None)
    mean, std = cell.test_spread() or (None, None)
    return EvaluationRow(
        study=result.of,
        combination=result.name,
        rank=cell.cell.rank,
        init=cell.cell.init,
        trial=cell.best.number if cell.best else None,
        checkpoint=checkpoint,
        alpha=params.get("alpha"),
        optimizer=params.get("optimizer"),
        lr=params.get("lr"),
        batch_size=params.get("batch_size"),
        extra=_extra(params),
        bytes=facts.get("bytes"),
        ratio=facts.get("ratio"),
        layer_ratio=facts.get("layer_ratio"),
        macs_ratio=facts.get("macs_ratio"),
        trainable=facts.get("trainable"),
        original_val=_accuracy(result.baseline, "val"),
        original_test=_accuracy(result.baseline, "test"),
        compressed_val=_accuracy(result.compressed, "val"),
        compressed_test=_accuracy(result.compressed, "test"),
        recovered_val=cell.best.value if cell.best else None,
        recovered_test=cell.test.accuracy if cell.test else None,
        test_low=low,
        test_high=high,
        recovery=cell_recovery(result, cell, "test"),
        seeds=len(cell.tested),
        failed_seeds=len(cell.failed_seeds),
        test_mean=mean,
        test_std=std,
        best_epoch=facts.get("best_epoch"),
    )


def _extra(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in Values.of(params).extra.items()) if params else ""


def _accuracy(scores: Mapping[str, Score], part: str) -> float | None:
    return scores[part].accuracy if part in scores else None


def trial_rows(results: Sequence[CombinationResult]) -> list[TrialRow]:
    """One row per trial of a cell, in the order in which trials were stored."""
    return [_trial_row(result, trial) for result in results for trial in result.trials()]


def _trial_row(result: CombinationResult, trial: FrozenTrial) -> TrialRow:
    facts = trial.user_attrs
    return TrialRow(
        study=result.of,
        combination=result.name,
        trial=trial.number,
        state=trial.state.name.lower(),
        rank=trial.params["rank"],
        init=trial.params["init"],
        alpha=trial.params.get("alpha"),
        optimizer=trial.params.get("optimizer"),
        lr=trial.params.get("lr"),
        batch_size=trial.params.get("batch_size"),
        extra=_extra(trial.params),
        value=trial.value,
        epochs=len(trial.intermediate_values),
        best_epoch=facts.get("best_epoch"),
        bytes=facts.get("bytes"),
        ratio=facts.get("ratio"),
        trainable=facts.get("trainable"),
        seconds=facts.get("seconds"),
        peak_memory=facts.get("peak_memory"),
        device=facts.get("device"),
        seed=facts.get("seed"),
        origin=facts.get("origin"),
        interrupted="interrupted" in facts,
        reason=facts.get("reason"),
    )


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
    """Write rows of one class of ``table_rows``; the header alone if there are none."""

    def write(target: Path) -> None:
        with target.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, kind.__annotations__)
            table.writeheader()
            table.writerows(rows)

    write_whole(path, write)
