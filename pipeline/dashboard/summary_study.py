"""The summary study ``<study>``: the best trial of each cell, its accuracy and its bytes, for a Pareto front."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.comparison import cell_recovery, winner_accuracy
from pipeline.store.database import Database, database_of
from pipeline.store.optuna_tables import (
    begin_trial,
    end_trial,
    study_id_of,
    trial_id_of,
    withdraw_trials,
    write_attributes,
    write_distributions,
)

SUMMARY_OF = "summary_of"
"""The attribute that tells a summary study from a study that another program made."""


def open_summary(storage: Database, study: str, metric: str) -> optuna.Study | None:
    """The summary study of a study, created if there is none, and claimed for the run that has opened ``storage``.

    Returns:
        None if another program made a study of that name.
    """
    try:
        summary = optuna.create_study(storage=storage, study_name=study, directions=["maximize", "minimize"])
    except DuplicatedStudyError:
        summary = optuna.load_study(storage=storage, study_name=study)
        if summary.user_attrs.get(SUMMARY_OF) != study and not _is_bare(summary):
            return None
    with storage.transaction(None) as session:
        storage.claim(session, study_id_of(summary))
    if SUMMARY_OF not in summary.user_attrs:
        summary.set_user_attr(SUMMARY_OF, study)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            summary.set_metric_names([f"validation {metric}", "bytes"])
    return summary


def _is_bare(study: optuna.Study) -> bool:
    """Whether a study is empty, because a run was killed while it created its summary."""
    two = study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    return two and not (study.user_attrs or study.metric_names or study.get_trials(deepcopy=False))


def update_summary(summary: optuna.Study, results: Sequence[CombinationResult]) -> None:
    """Update the summary in one transaction. Former best trials appear as pruned, with ``superseded_by``.

    Raises:
        StorageError: Another run has taken over the study.
    """
    best = {
        (result.name, cell.cell.rank, cell.cell.init): (result, cell)
        for result in results
        for cell in result.cells
        if cell.best
    }
    database, study_id = database_of(summary), study_id_of(summary)
    trials = database.get_all_trials(study_id, deepcopy=False)  # not from a cache
    shown = {_key(trial): trial for trial in trials if trial.state == TrialState.COMPLETE}
    kept = {key for key, trial in shown.items() if key in best and _shows(trial, *best[key])}
    stale = [key for key in kept if _attributes(*best[key]) != shown[key].user_attrs]
    fresh, old = [key for key in best if key not in kept], [trial for key, trial in shown.items() if key not in kept]
    if not (stale or fresh or old):
        return
    space = _space(results, trials)
    with database.transaction(study_id) as session:
        if old:
            withdraw_trials(session, [trial_id_of(trial) for trial in old])
        numbers = {key: _append(session, study_id, space, *best[key]) for key in fresh}
        for trial in old:
            write_attributes(session, trial_id_of(trial), {"superseded_by": numbers.get(_key(trial))})
        for key in stale:
            write_attributes(session, trial_id_of(shown[key]), _attributes(*best[key]))
        write_distributions(session, study_id, space)


def _key(trial: FrozenTrial) -> tuple[str, int, str]:
    return trial.params["combination"], trial.params["rank"], trial.params["init"]


def _shows(trial: FrozenTrial, result: CombinationResult, cell: CellResult) -> bool:
    """Whether a trial of the summary is that of a cell's winner."""
    origin = trial.user_attrs["study"], trial.user_attrs["trial"], trial.values
    return origin == (result.study.study_name, cell.winner.number, _values(cell.winner))


def _values(winner: FrozenTrial) -> list[float]:
    return [winner.value or 0.0, float(winner.user_attrs["bytes"])]


def _attributes(result: CombinationResult, cell: CellResult) -> dict[str, Any]:
    """The user attributes of a winner in the summary."""
    facts = {
        "study": result.study.study_name,
        "trial": cell.winner.number,
        "times_smaller": round(cell.winner.user_attrs["ratio"], 3),
        "trainable": cell.winner.user_attrs["trainable"],
        "recovery": cell_recovery(result, cell, "val"),
        f"test_{result.metric}": winner_accuracy(cell, "test"),
        "test_recovery": cell_recovery(result, cell, "test"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _space(results: Sequence[CombinationResult], trials: Sequence[FrozenTrial]) -> dict[str, CategoricalDistribution]:
    """The distributions of combination, rank and init. Stored choices keep their order, new ones follow."""
    cells = [cell.cell for result in results for cell in result.cells]
    choices: dict[str, list[Any]] = {
        "combination": [result.name for result in results],
        "rank": sorted({cell.rank for cell in cells}),
        "init": [cell.init for cell in cells],
    }
    space = {}
    for name, present in choices.items():
        stored = [known for trial in trials if isinstance(known := trial.distributions[name], CategoricalDistribution)]
        before = [choice for known in stored for choice in known.choices]
        space[name] = CategoricalDistribution(list(dict.fromkeys([*before, *present])))
    return space


def _append(
    session: Session, study_id: int, space: Mapping[str, BaseDistribution], result: CombinationResult, cell: CellResult
) -> int:
    """Add a winner as a trial with its values and times; returns the trial's number."""
    winner = cell.winner
    params = {**winner.params, "combination": result.name}
    if winner.datetime_start is None:
        raise ValueError(f"trial {winner.number} of '{result.name}' never began")
    trial_id, number = begin_trial(session, study_id, winner.datetime_start, params, {**winner.distributions, **space})
    write_attributes(session, trial_id, _attributes(result, cell))
    end_trial(session, trial_id, TrialState.COMPLETE, _values(winner), winner.datetime_complete)
    return number
