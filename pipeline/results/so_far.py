"""What a study came to so far, read from the summaries that its ledger keeps and from the winners' trials alone."""

from collections import Counter
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from pipeline.results.stored_results import CombinationResult, gathered, stored_facts
from pipeline.space import Cell
from pipeline.store.database import Database
from pipeline.store.stored_study import study_name
from pipeline.store.summary import COVERED, stored_cells, summary_key
from pipeline.store.tally import Tally, tally

Winners = dict[tuple[int, int], FrozenTrial]
"""Trials by the id of their study and their number; a trial that is complete stays as it is."""


def read_so_far(storage: Database, study: str, known: Winners) -> list[CombinationResult]:
    """All combinations of a study, as ``read_results`` has them; trials that the summaries do not cover are left out.

    Args:
        storage: The database.
        study: The study's name.
        known: Winners that were read before; those that are read now are added.
    """
    return [
        _so_far(storage, optuna.load_study(study_name=name, storage=storage), facts, known)
        for name, facts in stored_facts(storage, study_name(study, "")).items()
    ]


def _so_far(storage: Database, study: optuna.Study, facts: dict[str, Any], known: Winners) -> CombinationResult:
    if COVERED not in facts:  # it has no trials, or is of a version without such summaries
        trials = study.get_trials(deepcopy=False)
        return gathered(study, facts, tally(trials), dict(enumerate(trials)))
    cells = [Cell(rank, init) for rank, init in stored_cells(facts)]
    tallies = {cell: _tally(facts[summary_key(cell)]) for cell in cells if summary_key(cell) in facts}
    winners = {}
    for own in tallies.values():
        if own.trial is not None:
            key = study._study_id, own.trial
            if key not in known:
                known[key] = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(*key))
            winners[own.trial] = known[key]
    return gathered(study, facts, tallies, winners)


def _tally(summary: dict[str, Any]) -> Tally:
    reasons, interrupted = Counter(summary["reasons"] or {}), Counter(summary["interrupted"] or {})
    return Tally(Counter(summary["states"]), reasons, interrupted, summary["best"], summary["trial"])
