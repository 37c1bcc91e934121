"""Exporting trials of a study: the best cell of each rank, or one trial by its number."""

from collections.abc import Iterator
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from pipeline.cell import cell_of
from pipeline.errors import NothingUsableError
from pipeline.export.card import add_study, make_card
from pipeline.export.checkpoint import WEIGHTS, read_card, refuse_existing, write_checkpoint
from pipeline.export.pack import pack_model
from pipeline.objective.objective import Objective
from pipeline.paths import exports_folder
from pipeline.results.combination_result import CombinationResult, Score
from pipeline.run.winners import Recovered, recover, score_adapter, values_of
from pipeline.store.kept_adapters import Kept
from pipeline.store.stored_study import note_file


def save(objective: Objective, trial: FrozenTrial, folder: str | Path, *, force: bool = False) -> Path:
    """Write the checkpoint of a complete trial of your own objective; ``load`` reads it.

    The trial's values are trained once more, alone, and the result is measured on the test part.

    Args:
        objective: The objective of the trial.
        trial: A complete trial, e.g. ``study.best_trial``.
        folder: The folder to write.
        force: Whether to replace an existing folder.

    Raises:
        UsageError: The folder exists and ``force`` is False.
        NothingUsableError: The training failed.
    """
    refuse_existing(Path(folder), force=force)
    got = recover(objective, None, trial)
    card = make_card(objective.combination, trial, got, _validated(objective, got), _tested(objective, trial, got))
    return write_checkpoint(Path(folder), _tensors(objective, trial, got), card, force=force)


def export_ranks(objective: Objective, result: CombinationResult, kept: Kept, *, force: bool) -> Iterator[Path]:
    """Export the best cell of every rank; yields each folder after it is written.

    Args:
        objective: The objective of the combination.
        result: The stored results of the combination.
        kept: The best adapters that were kept during the search.
        force: Whether to replace existing folders.

    Raises:
        UsageError: A folder exists and ``force`` is False; nothing is written.
    """
    best = result.best_of_ranks()
    for rank in best:
        refuse_existing(exports_folder(kept.study, kept.combination, rank), force=force)
    for cell in best.values():
        if cell.best is not None:
            yield _export_stored(objective, result, kept, cell.best, "validation accuracy", force)


def export_trial(objective: Objective, result: CombinationResult, kept: Kept, number: int, *, force: bool) -> Path:
    """Export one trial by its number, to the folder of its rank. See ``export_ranks`` for the other arguments.

    The trial is measured on the test part now, unless it is a winner that was measured before.

    Raises:
        NothingUsableError: No trial has this number, or it is not complete.
        UsageError: The folder exists and ``force`` is False.
    """
    complete = {trial.number: trial for trial in result.study.trials if trial.state == TrialState.COMPLETE}
    if number not in complete:
        numbers = ", ".join(map(str, list(complete)[:20]))
        raise NothingUsableError(
            f"trial {number} of '{result.name}' does not exist or is not complete; complete trials: {numbers or 'none'}"
        )
    trial = complete[number]
    refuse_existing(exports_folder(kept.study, kept.combination, trial.params["rank"]), force=force)
    return _export_stored(objective, result, kept, trial, f"--trial {number}", force)


def _export_stored(
    objective: Objective, result: CombinationResult, kept: Kept, trial: FrozenTrial, chosen_by: str, force: bool
) -> Path:
    """Write the checkpoint of a stored trial, and note its file in the stored study."""
    cell = next(cell for cell in result.cells if cell.cell == cell_of(trial.params))
    got = recover(objective, kept, trial)
    is_winner = cell.best is not None and cell.best.number == trial.number
    if is_winner and cell.tested and not got.retrained:
        val, test = cell.tested[0].val, cell.tested[0].test
    else:
        val, test = _validated(objective, got), _tested(objective, trial, got)
    card = make_card(objective.combination, trial, got, val, test)
    add_study(card, kept.study, result, cell, chosen_by)
    folder = exports_folder(kept.study, kept.combination, cell.cell.rank)
    write_checkpoint(folder, _tensors(objective, trial, got), card, force=force)
    note_file(result.study, trial.number, "checkpoint", folder / WEIGHTS, read_card(folder)["sha256"])
    return folder


def _validated(objective: Objective, got: Recovered) -> Score:
    images = len(objective.combination.task.val)
    return Score(round(got.val_accuracy * images), images)


def _tested(objective: Objective, trial: FrozenTrial, got: Recovered) -> Score:
    return Score(*score_adapter(objective, values_of(trial), got.parameters, "test"))


def _tensors(objective: Objective, trial: FrozenTrial, got: Recovered) -> dict[str, Tensor]:
    compressed = objective.bases.of(values_of(trial).cell).compressed
    return pack_model(compressed, objective.combination.adapter, got.parameters)
