"""Reading the stored studies, with all their trials, or from their tallies and winners alone."""

import functools
import gc
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.cell import Cell, cell_of, stored_cells
from pipeline.config.table import nearest
from pipeline.errors import NothingUsableError
from pipeline.results.combination_result import CellResult, CombinationResult, Score, Tested
from pipeline.store.database import Database
from pipeline.store.optuna_tables import study_id_of
from pipeline.store.stored_study import REQUIRED, study_name
from pipeline.store.tally import COVERED, DAMAGED, Tally, has_cell, tally_trials

logger = logging.getLogger(__name__)

Winners = dict[tuple[int, int], FrozenTrial]
"""Complete trials by the id of their study and their number. They never change, so they are read once."""


def read_results(storage: Database, *studies: str) -> list[CombinationResult]:
    """All combinations of some studies, one study after another, in the order of their first runs.

    Raises:
        NothingUsableError: One of the studies is not stored, or cannot be read.
    """
    stored, wanted = list(stored_facts(storage)), list(dict.fromkeys(studies))
    found: list[CombinationResult] = []
    for study in wanted:
        results = _read_each(storage, [name for name in stored if name.startswith(study_name(study, ""))])
        if not results:
            known = sorted({name.partition("/")[0] for name in stored} - {study})
            raise NothingUsableError(
                f"no study '{study}' is stored{nearest(study, known)}; stored: {', '.join(known) or 'none'}; "
                f"`restora run STUDY` makes one"
            )
        found += results if len(wanted) == 1 else [replace(each, label=each.study.study_name) for each in results]
    return found


def read_all(storage: Database) -> list[CombinationResult]:
    """All combinations of all studies of a database that can be read."""
    return _read_each(storage, stored_facts(storage))


def read_tallied(storage: Database, study: str, winners: Winners) -> list[CombinationResult]:
    """All combinations of a study like ``read_results``, but from their stored tallies and winners alone.

    Trials that the tallies do not cover are left out. A study without tallies is read in full. Winners that are read
    are added to ``winners``.
    """
    results = []
    for name, facts in stored_facts(storage, study_name(study, "")).items():
        stored = optuna.load_study(study_name=name, storage=storage)
        if COVERED not in facts:
            results.append(_read_in_full(stored, facts))
            continue
        cells = [cell for cell in stored_cells(facts) if cell.summary_key in facts]
        tallies = {cell: Tally.from_table(facts[cell.summary_key]) for cell in cells}
        best = {}
        for cell, tally in tallies.items():
            if tally.trial is not None:
                key = study_id_of(stored), tally.trial
                if key not in winners:
                    winners[key] = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(*key))
                best[cell] = winners[key]
        results.append(_result(stored, facts, tallies, best, {}))
    return results


def stored_facts(storage: Database, prefix: str = "") -> dict[str, dict[str, Any]]:
    """The user attributes of each study that a run created, by name, of those whose name begins with ``prefix``.

    Studies of other programs are left out. So is, with a warning, a study that is incomplete or damaged, so that it
    does not keep the others from being read.
    """
    found = {}
    for name, study_id in storage.names().items():
        if not name.startswith(prefix):
            continue
        try:
            facts = storage.get_study_user_attrs(study_id)
        except DAMAGED as error:
            _warn_damaged(name, error)
            continue
        missing = [key for key in REQUIRED if key not in facts]
        if not missing:
            found[name] = facts
        elif "pinned" in facts:
            _warn(
                f"study '{name}' was left incomplete by a run that was killed (without {', '.join(missing)}); "
                f"it is left out, and `restora run {name.partition('/')[0]}` completes it"
            )
    return found


def find_winners(study: optuna.Study) -> dict[Cell, FrozenTrial]:
    """The complete trial with the highest validation accuracy of each cell, the first of equals."""
    trials = study.get_trials(deepcopy=False)
    return _winners(trials, tally_trials(trials))


def _winners(trials: Sequence[FrozenTrial], tallies: Mapping[Cell, Tally]) -> dict[Cell, FrozenTrial]:
    return {cell: trials[tally.trial] for cell, tally in tallies.items() if tally.trial is not None}


def _warn_damaged(name: str, error: Exception) -> None:
    _warn(f"study '{name}' is damaged and is left out ({type(error).__name__}: {error})")


@functools.cache
def _warn(message: str) -> None:
    """Log a warning, once per process, because a run reads its stored studies every few seconds."""
    logger.warning(message)


def _read_each(storage: Database, names: Iterable[str]) -> list[CombinationResult]:
    results = []
    with _garbage_collector_off():
        for name in names:
            try:
                study = optuna.load_study(study_name=name, storage=storage)
                results.append(_read_in_full(study, study.user_attrs))
            except DAMAGED as error:
                _warn_damaged(name, error)
    return results


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """It would go through all that was read so far again and again: 5,000 trials took 17 s with it, 7 s without."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_in_full(study: optuna.Study, facts: Mapping[str, Any]) -> CombinationResult:
    trials = study.get_trials(deepcopy=False)
    tallies, epochs = tally_trials(trials), defaultdict[Cell, int](int)
    for trial in filter(has_cell, trials):
        if trial.state == TrialState.RUNNING:
            cell = cell_of(trial.params)
            epochs[cell] = max(epochs[cell], trial.last_step or 0)
    return _result(study, facts, tallies, _winners(trials, tallies), epochs)


def _result(
    study: optuna.Study,
    facts: Mapping[str, Any],
    tallies: Mapping[Cell, Tally],
    winners: Mapping[Cell, FrozenTrial],
    epochs: Mapping[Cell, int],
) -> CombinationResult:
    name = study.study_name.partition("/")[2]
    cells = []
    for cell in stored_cells(facts):
        known, best = facts.get(cell.winner_key, {}), winners.get(cell)
        seeds = known.get("seeds", []) if best and known.get("trial") == best.number else []
        tested = tuple(Tested(s["seed"], Score(*s["val"]), Score(*s["test"])) for s in seeds if "test" in s)
        failed = {s["seed"]: s["reason"] for s in seeds if "reason" in s}
        tally, epoch = tallies.get(cell, Tally()), epochs.get(cell, 0)
        cells.append(CellResult(cell, facts["budget"], tally, epoch, best, tested, failed))
    baseline, compressed = (
        {part: Score(*scores) for part, scores in facts.get(key, {}).items()} for key in ("baseline", "compressed")
    )
    return CombinationResult(name, name, study, baseline, compressed, facts, tuple(cells))
