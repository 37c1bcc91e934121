"""What a study came to so far, read from the summaries that its ledger keeps and from the winners' trials alone."""

from typing import Any

import optuna
from optuna.trial import FrozenTrial

from pipeline.cell import stored_cells
from pipeline.results.stored_results import CombinationResult, gathered, stored_facts
from pipeline.store.database import Database
from pipeline.store.optuna_tables import study_id_of
from pipeline.store.stored_study import study_name
from pipeline.store.tally import COVERED, Tally, tally_trials

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
        return gathered(study, facts, tally_trials(trials), dict(enumerate(trials)))
    cells = [cell for cell in stored_cells(facts) if cell.summary_key in facts]
    tallies = {cell: Tally.from_table(facts[cell.summary_key]) for cell in cells}
    winners = {}
    for own in tallies.values():
        if own.trial is not None:
            key = study_id_of(study), own.trial
            if key not in known:
                known[key] = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(*key))
            winners[own.trial] = known[key]
    return gathered(study, facts, tallies, winners)
