"""The summary study ``<study>``: the best trial of each cell, its accuracy and its bytes, for a Pareto front."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.comparison import cell_recovery, winner_accuracy
from pipeline.store.optuna_tables import (
    backend_of,
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
Key = tuple[str, int, str]
"""Combination, rank and init."""


def open_summary(storage: RDBStorage, study: str, metric: str) -> optuna.Study | None:
    """The summary study of a study, created if there is none; None if another program made a study of that name."""
    try:
        summary = optuna.create_study(storage=storage, study_name=study, directions=["maximize", "minimize"])
    except DuplicatedStudyError:
        summary = optuna.load_study(storage=storage, study_name=study)
        if summary.user_attrs.get(SUMMARY_OF) == study:
            return summary
        if not _is_bare(summary):
            return None
    summary.set_user_attr(SUMMARY_OF, study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        summary.set_metric_names([f"validation {metric}", "bytes"])
    return summary


def _is_bare(study: optuna.Study) -> bool:
    """Whether a study is empty, because a run was killed while it created its summary."""
    two = study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    return two and not (study.user_attrs or study.metric_names or study.get_trials(deepcopy=False))


def update_summary(summary: optuna.Study, results: Sequence[CombinationResult]) -> bool:
    """Update the summary in one transaction. Former best trials appear as pruned, with ``superseded_by``.

    Returns:
        Whether anything has changed.
    """
    best = {
        (result.name, cell.cell.rank, cell.cell.init): (result, cell)
        for result in results
        for cell in result.cells
        if cell.best
    }
    study_id = study_id_of(summary)
    trials = backend_of(summary).get_all_trials(study_id, deepcopy=False)  # not from a cache
    shown = {_key(trial): trial for trial in trials if trial.state == TrialState.COMPLETE}
    kept = {key for key, trial in shown.items() if key in best and _origin(trial) == _origin_of(*best[key])}
    stale = [key for key in kept if _attributes(*best[key]) != shown[key].user_attrs]
    fresh, old = [key for key in best if key not in kept], [trial for key, trial in shown.items() if key not in kept]
    if not (stale or fresh or old):
        return False
    space = _space(results, trials)
    with Session(backend_of(summary).engine) as session, session.begin():
        if old:
            withdraw_trials(session, [trial_id_of(trial) for trial in old])
        numbers = {key: _append(session, study_id, space, *best[key]) for key in fresh}
        for trial in old:
            write_attributes(session, trial_id_of(trial), {"superseded_by": numbers.get(_key(trial))})
        for key in stale:
            write_attributes(session, trial_id_of(shown[key]), _attributes(*best[key]))
        write_distributions(session, study_id, space)
    return True


def _key(trial: FrozenTrial) -> Key:
    return trial.params["combination"], trial.params["rank"], trial.params["init"]


def _origin(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.user_attrs["study"], trial.user_attrs["trial"], trial.values


def _origin_of(result: CombinationResult, cell: CellResult) -> tuple[Any, ...]:
    attributes = _attributes(result, cell)
    return attributes["study"], attributes["trial"], _values(_winner(cell))


def _winner(cell: CellResult) -> FrozenTrial:
    if cell.best is None:
        raise ValueError(f"{cell.cell} has no complete trial")
    return cell.best


def _values(best: FrozenTrial) -> list[float]:
    return [best.value or 0.0, float(best.user_attrs["bytes"])]


def _attributes(result: CombinationResult, cell: CellResult) -> dict[str, Any]:
    """The user attributes of a winner in the summary."""
    best = _winner(cell)
    facts = {
        "study": result.study.study_name,
        "trial": best.number,
        "times_smaller": round(best.user_attrs["ratio"], 3),
        "trainable": best.user_attrs["trainable"],
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
        stored = [trial.distributions[name] for trial in trials if name in trial.distributions]
        before = [
            choice
            for distribution in stored
            if isinstance(distribution, CategoricalDistribution)
            for choice in distribution.choices
        ]
        space[name] = CategoricalDistribution(list(dict.fromkeys([*before, *present])))
    return space


def _append(
    session: Session, study_id: int, space: Mapping[str, BaseDistribution], result: CombinationResult, cell: CellResult
) -> int:
    """Add a winner as a trial with its values and times; returns the trial's number."""
    best = _winner(cell)
    params = {**best.params, "combination": result.name}
    began, ended = best.datetime_start, best.datetime_complete
    if began is None:
        raise ValueError(f"trial {best.number} of '{result.name}' never began")
    trial_id, number = begin_trial(session, study_id, began, params, {**best.distributions, **space})
    write_attributes(session, trial_id, _attributes(result, cell))
    end_trial(session, trial_id, TrialState.COMPLETE, _values(best), ended)
    return number
