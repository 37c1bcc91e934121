"""What of a study is exported: the best cell of each rank, or one trial by its number."""

from collections.abc import Callable, Iterator
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from pipeline.errors import NothingUsableError
from pipeline.export.card import add_study, make_card
from pipeline.export.checkpoint import write_checkpoint
from pipeline.export.pack import pack_model
from pipeline.paths import exports_folder
from pipeline.search.keep import Kept
from pipeline.search.objective import Objective
from pipeline.search.results import CellResult, CombinationResult, Score
from pipeline.search.select import measure, train_again, values_of, winner_parameters
from pipeline.search.space import cell_of


def save(objective: Objective, trial: FrozenTrial, folder: str | Path, *, force: bool = False) -> Path:
    """Write the checkpoint of one complete trial of an objective of your own; ``load`` reads it.

    Its values are trained once more, which gives the same adapter, and it is measured on the test part.

    Args:
        objective: What trained it.
        trial: A complete trial, as ``study.best_trial``.
        folder: Where the checkpoint will lie.
        force: Whether to take the place of a folder that is there.
    """
    parameters = train_again(objective, values_of(trial), lambda: None).best_parameters
    card = make_card(objective, trial, _tested(objective, trial, parameters))
    return write_checkpoint(Path(folder), pack_model(objective.compressed, parameters), card, force=force)


def export_ranks(
    objective: Objective, result: CombinationResult, kept: Kept, check: Callable[[], None], *, force: bool
) -> Iterator[Path]:
    """Export the checkpoint of every rank; yields each folder when it is written."""
    for cell in result.best_of_ranks().values():
        if cell.best is not None:
            yield _export_stored(objective, result, kept, cell, cell.best, "validation accuracy", check, force)


def export_trial(
    objective: Objective, result: CombinationResult, kept: Kept, number: int, check: Callable[[], None], *, force: bool
) -> Path:
    """Export one trial by its number, in its rank's place; it is tested now unless it is a tested winner.

    Raises:
        NothingUsableError: There is no such trial, or it is not complete.
    """
    complete = {trial.number: trial for trial in result.study.trials if trial.state == TrialState.COMPLETE}
    if number not in complete:
        numbers = ", ".join(map(str, list(complete)[:20]))
        raise NothingUsableError(
            f"trial {number} of '{result.name}' is not there or not complete; complete trials: {numbers or 'none'}"
        )
    trial = complete[number]
    cell = next(cell for cell in result.cells if cell.cell == cell_of(trial.params))
    return _export_stored(objective, result, kept, cell, trial, f"--trial {number}", check, force)


def _export_stored(
    objective: Objective,
    result: CombinationResult,
    kept: Kept,
    cell: CellResult,
    trial: FrozenTrial,
    chosen_by: str,
    check: Callable[[], None],
    force: bool,
) -> Path:
    parameters = winner_parameters(objective, kept, trial, check)
    is_winner = cell.best is not None and cell.best.number == trial.number
    test = cell.test if is_winner and cell.test else _tested(objective, trial, parameters)
    card = make_card(objective, trial, test)
    add_study(card, kept.study, result, cell, chosen_by)
    folder = exports_folder(kept.study, kept.combination, cell.cell.rank)
    return write_checkpoint(folder, pack_model(objective.compressed, parameters), card, force=force)


def _tested(objective: Objective, trial: FrozenTrial, parameters: dict[str, Tensor]) -> Score:
    model = objective.adapted(parameters, values_of(trial).alpha)
    return Score(*measure(objective, model, objective.task.test))
