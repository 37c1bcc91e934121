"""Exporting trials of a study: the best of each rank, or one by its number."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from pipeline.cell import cell_of
from pipeline.config.spec import StudySpec
from pipeline.config.study_file import as_begun, pinned
from pipeline.environment import plain_modes
from pipeline.errors import NothingUsableError, UsageError
from pipeline.export.card import add_study, make_card
from pipeline.export.checkpoint import WEIGHTS, read_card, refuse_existing, write_checkpoint
from pipeline.export.pack import pack_model
from pipeline.objective.objective import Objective
from pipeline.paths import default_database, exports_folder
from pipeline.results.combination_result import CombinationResult, Score
from pipeline.results.reading import read_results
from pipeline.run.failures import Failures
from pipeline.run.objectives import make_objectives
from pipeline.run.winners import Recovered, recover, score_adapter
from pipeline.space import Values
from pipeline.store.database import open_storage, storage_errors, without_password
from pipeline.store.kept_adapters import Kept
from pipeline.store.stored_study import note_file, refuse_differences, study_name
from pipeline.task.prepare import prepare


@plain_modes()
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
    card = make_card(objective, trial, got, *_scores(objective, trial, got))
    return write_checkpoint(Path(folder), _tensors(objective, trial, got), card, force=force)


def export_study(
    spec: StudySpec,
    url: str | None = None,
    *,
    combination: str | None = None,
    trial: int | None = None,
    device: str = "cpu",
    force: bool = False,
) -> Iterator[tuple[str, Path]]:
    """Export the best trial of every rank of a stored study, as ``restora export`` does.

    Yields the combination's name and the folder ``storage/exports/<study>/<combination>/rank-<r>`` of each checkpoint.

    Args:
        spec: The study. Its seed is not used, but that of the stored study.
        url: SQLAlchemy URL of the database of the stored studies; None for ``RESTORA_STORAGE`` or
            ``storage/studies.db``.
        combination: Export this combination alone.
        trial: Number of a trial of the combination to export instead of the best of every rank.
        device: Where trials are measured, and trained again if their adapters were not kept.
        force: Whether to replace existing folders.

    Raises:
        NothingUsableError: The study is not stored, has no complete trial, or ``trial`` is not complete.
        UsageError: ``trial`` is given without its combination, or a folder exists and ``force`` is False.
        SpecError: The study was searched with other settings, or has no such combination.
        IntegrityError: Some trials cannot be exported; all others are.
        StopTraining: The active guard stops the training; what was yielded is written.
    """
    url = url or default_database()
    with storage_errors(url):
        results = {result.name: result for result in read_results(open_storage(url, "write"), spec.name)}
    spec = spec.model_copy(update={"seed": next(iter(results.values())).facts["pinned"]["seed"]})
    spec = as_begun(spec, {name: result.facts["pinned"] for name, result in results.items()})
    names = [spec.find(combination).name] if combination else list(results)
    if trial is not None and len(names) > 1:
        raise UsageError(f"--trial needs --combination, one of: {', '.join(names)}")
    if not any(results[name].best_of_ranks() for name in names if name in results):
        run = ["restora", "run", spec.name]
        run += [] if url == default_database() else ["--storage", without_password(url)]
        raise NothingUsableError(f"no trial of '{spec.name}' is complete yet; next: {shlex.join(run)}")
    for name in names:
        for folder in _chosen_trials(results[name], trial):
            refuse_existing(folder, force=force)
    task = prepare(spec.task, device=device)
    objectives = make_objectives(spec, task, device)
    for name in names:
        settings = pinned(spec, spec.find(name))
        refuse_differences(study_name(spec.name, name), results[name].facts, settings, dict(task.hashes))
    failures = Failures()
    for name in names:
        kept = Kept(spec.name, name, results[name].facts["id"])
        with failures.contained(f"'{name}'", f"{name}: not all is exported"):
            for folder in export_combination(objectives[name], results[name], kept, trial, force=force):
                yield name, folder
    failures.raise_any("these combinations failed, the others are exported")


def export_combination(
    objective: Objective, result: CombinationResult, kept: Kept, trial: int | None = None, *, force: bool = False
) -> Iterator[Path]:
    """Export the best trial of every rank of a combination, or one trial; see ``export_study``.

    A trial is measured on the test part now, unless it is a winner that was measured before. Folders that exist are
    refused before anything is written. If some cannot be exported, all others are, before an ``IntegrityError``.
    """
    trials = _chosen_trials(result, trial)
    for folder in trials:
        refuse_existing(folder, force=force)
    failures = Failures()
    for folder, chosen in trials.items():
        with failures.contained(f"trial {chosen.number}", f"{result.name}: trial {chosen.number} is not exported"):
            cell = next(cell for cell in result.cells if cell.cell == cell_of(chosen.params))
            got = recover(objective, kept, chosen)
            is_winner = cell.best is not None and cell.best.number == chosen.number
            if is_winner and cell.tested and not got.retrained:
                val, test = cell.tested[0].val, cell.tested[0].test
            else:
                val, test = _scores(objective, chosen, got)
            card = make_card(objective, chosen, got, val, test)
            add_study(card, kept.study, result, cell, "validation accuracy" if trial is None else f"--trial {trial}")
            write_checkpoint(folder, _tensors(objective, chosen, got), card, force=force)
            note_file(result.study, chosen.number, "checkpoint", folder / WEIGHTS, read_card(folder)["sha256"])
            yield folder
    failures.raise_any("trials that cannot be exported")


def _chosen_trials(result: CombinationResult, number: int | None) -> dict[Path, FrozenTrial]:
    """The trials to export, by their folders."""
    if number is None:
        trials = [cell.best for cell in result.best_of_ranks().values() if cell.best is not None]
    else:
        complete = {trial.number: trial for trial in result.study.trials if trial.state == TrialState.COMPLETE}
        if number not in complete:
            numbers = ", ".join(map(str, list(complete)[:20])) or "none"
            raise NothingUsableError(
                f"trial {number} of '{result.name}' does not exist or is not complete; complete trials: {numbers}"
            )
        trials = [complete[number]]
    return {exports_folder(result.of, result.name, trial.params["rank"]): trial for trial in trials}


def _scores(objective: Objective, trial: FrozenTrial, got: Recovered) -> tuple[Score, Score]:
    """The scores on the validation and on the test part."""
    images = len(objective.combination.task.val)
    test = score_adapter(objective, Values.of(trial.params), got.parameters, "test")
    return Score(round(got.val_accuracy * images), images), Score(*test)


def _tensors(objective: Objective, trial: FrozenTrial, got: Recovered) -> dict[str, Tensor]:
    compressed = objective.bases.of(Values.of(trial.params).cell).compressed
    return pack_model(compressed, objective.combination.adapter, got.parameters)
