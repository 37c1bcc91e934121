"""What a stored study holds, as plain values for status, report and export; needs neither torch nor data."""

import functools
import gc
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.cell import Cell, stored_cells
from pipeline.errors import NothingUsableError
from pipeline.store.database import Database
from pipeline.store.stored_study import REQUIRED, study_name
from pipeline.store.tally import DAMAGED, Tally, has_cell, tally_trials

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """Right answers on one part."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.images


def mean_accuracy(scores: Iterable[Score]) -> float:
    """What a model is compared by: the mean over the seeds under which it was trained, with one seed its accuracy."""
    return fmean(score.accuracy for score in scores)


@dataclass(frozen=True)
class Tested:
    """A winner's scores under one seed, that of the study first."""

    seed: int
    val: Score
    test: Score


@dataclass(frozen=True)
class CellResult:
    """One cell of a combination.

    Args:
        cell: Its rank and init.
        budget: Trials that it may complete or prune.
        tally: What its trials came to.
        epoch: Epochs that its furthest running trial has behind it.
        best: The complete trial of highest validation accuracy.
        tested: The scores of that trial, by seed; empty until it is tested.
        failed_seeds: Why training it again failed, by seed.
    """

    cell: Cell
    budget: int
    tally: Tally
    epoch: int
    best: FrozenTrial | None
    tested: tuple[Tested, ...]
    failed_seeds: Mapping[int, str]

    @property
    def exhausted(self) -> bool:
        return self.tally.exhausted(self.budget)

    @property
    def begun(self) -> bool:
        return any(self.tally.states.values())

    @property
    def test(self) -> Score | None:
        """The winner's score on the test part under the study's own seed: that of the exported checkpoint."""
        return self.tested[0].test if self.tested else None

    def test_spread(self) -> tuple[float, float] | None:
        """Mean and standard deviation of test accuracy over seeds, where there are several."""
        scores = [tested.test for tested in self.tested]
        return (mean_accuracy(scores), stdev(score.accuracy for score in scores)) if len(scores) > 1 else None


@dataclass(frozen=True)
class CombinationResult:
    """One combination of a study.

    Args:
        name: Its name, which files and folders have.
        label: What people read: its name, after that of its study where several studies are shown together.
        study: The stored Optuna study.
        baseline: Scores of the uncompressed model by part.
        compressed: Scores of the model that is only compressed.
        facts: ``dense_bytes``, ``compressed_bytes``, ``dense_macs``, ``budget`` and other attributes of the study.
        cells: Its cells, in the study file's order.
    """

    name: str
    label: str
    study: optuna.Study
    baseline: Mapping[str, Score]
    compressed: Mapping[str, Score]
    facts: Mapping[str, Any]
    cells: tuple[CellResult, ...]

    @property
    def of(self) -> str:
        """The name of its study."""
        return self.study.study_name.partition("/")[0]

    @property
    def metric(self) -> str:
        """What is won back: ``accuracy``, or ``agreement`` with the model's own answers."""
        return str(self.facts.get("task", {}).get("metric", "accuracy"))

    @property
    def budget_unit(self) -> str | None:
        """What a rank is a budget of, ``bytes`` or ``parameters``, where an allocation spreads it; else none."""
        allocation = self.facts["pinned"]["search"].get("allocation")
        return str(allocation["unit"]) if allocation and any(cell.cell.rank for cell in self.cells) else None

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Its stored trials that have a cell, of some states or of all, in the order in which they were stored."""
        return list(filter(has_cell, self.study.get_trials(deepcopy=False, states=states or None)))

    def best_of_ranks(self) -> dict[int, CellResult]:
        """The cell of each rank whose winner has the highest validation accuracy: the rank's checkpoint."""
        best: dict[int, CellResult] = {}
        for cell in self.cells:
            rank = cell.cell.rank
            if cell.best is not None and (rank not in best or _value(cell) > _value(best[rank])):
                best[rank] = cell
        return best


def latest_run(results: Sequence[CombinationResult]) -> Mapping[str, Any] | None:
    """The run of these that began last: its ``command``, ``began`` and ``done``; none where no run was noted."""
    runs = (result.facts["run"] for result in results if "run" in result.facts)
    return max(runs, key=lambda run: str(run["began"]), default=None)


def _value(cell: CellResult) -> float:
    return cell.best.value or 0.0 if cell.best is not None else float("-inf")


def read_results(storage: Database, *studies: str) -> list[CombinationResult]:
    """All combinations of studies that have been run, a study after the other, in the order of their first runs.

    Raises:
        NothingUsableError: A study has none.
    """
    own, wanted = own_studies(storage), list(dict.fromkeys(studies))
    found: list[CombinationResult] = []
    for study in wanted:
        parts = _read_each(storage, [name for name in own if name.startswith(study_name(study, ""))])
        if not parts:
            known = ", ".join(sorted({name.partition("/")[0] for name in own} - {study}))
            raise NothingUsableError(
                f"no study '{study}' is stored; stored: {known or 'none'}; `restora run STUDY.toml` makes one"
            )
        found += parts if len(wanted) == 1 else [replace(part, label=part.study.study_name) for part in parts]
    return found


def read_all(storage: Database) -> list[CombinationResult]:
    """All combinations of all studies of a database that can be read."""
    return _read_each(storage, own_studies(storage))


def _read_each(storage: Database, names: Iterable[str]) -> list[CombinationResult]:
    results = []
    with _uncollected():
        for name in names:
            try:
                results.append(_read(storage, name))
            except DAMAGED as error:
                _warn_damaged(name, f"{type(error).__name__}: {error}")
    return results


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold the garbage collector back, which goes through all that was read so far again and again.

    Of 5,000 trials of 100 epochs: 17 s with it, 7 s without.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def own_studies(storage: Database) -> list[str]:
    """Names of the studies that a run created, in the order of their creation; see ``stored_facts``."""
    return list(stored_facts(storage))


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
            _warn_damaged(name, f"{type(error).__name__}: {error}")
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


def _warn_damaged(name: str, why: str) -> None:
    _warn(f"study '{name}' is damaged and is left out ({why})")


@functools.cache
def _warn(message: str) -> None:
    """Log a warning, once per process: a run reads its stored studies every few seconds."""
    logger.warning(message)


def _read(storage: Database, name: str) -> CombinationResult:
    study = optuna.load_study(study_name=name, storage=storage)
    trials = study.get_trials(deepcopy=False)
    return gathered(study, study.user_attrs, tally_trials(trials), dict(enumerate(trials)))


def gathered(
    study: optuna.Study,
    facts: Mapping[str, Any],
    tallies: Mapping[Cell, Tally],
    trials: Mapping[int, FrozenTrial],
) -> CombinationResult:
    """One combination, from what its cells came to and from its trials by number, of which the winners are needed."""
    return CombinationResult(
        name=study.study_name.partition("/")[2],
        label=study.study_name.partition("/")[2],
        study=study,
        baseline=_scores(facts.get("baseline", {})),
        compressed=_scores(facts.get("compressed", {})),
        facts=facts,
        cells=tuple(_cell(cell, facts, tallies.get(cell, Tally()), trials) for cell in stored_cells(facts)),
    )


def find_winners(study: optuna.Study) -> dict[Cell, FrozenTrial]:
    """The complete trial of highest validation accuracy of each cell; the first of equals."""
    trials = study.get_trials(deepcopy=False)
    return {cell: trials[own.trial] for cell, own in tally_trials(trials).items() if own.trial is not None}


def _cell(cell: Cell, facts: Mapping[str, Any], own: Tally, trials: Mapping[int, FrozenTrial]) -> CellResult:
    known = facts.get(cell.winner_key, {})
    seeds = known.get("seeds", []) if own.trial is not None and known.get("trial") == own.trial else []
    return CellResult(
        cell=cell,
        budget=facts["budget"],
        tally=own,
        epoch=_epoch(cell, trials.values()),
        best=None if own.trial is None else trials[own.trial],
        tested=tuple(Tested(s["seed"], Score(*s["val"]), Score(*s["test"])) for s in seeds if "test" in s),
        failed_seeds={s["seed"]: s["reason"] for s in seeds if "reason" in s},
    )


def _epoch(cell: Cell, trials: Iterable[FrozenTrial]) -> int:
    own = [trial for trial in trials if trial.params.get("rank") == cell.rank and trial.params.get("init") == cell.init]
    return max((trial.last_step or 0 for trial in own if trial.state == TrialState.RUNNING), default=0)


def _scores(table: Mapping[str, Any]) -> dict[str, Score]:
    return {part: Score(*table[part]) for part in ("val", "test") if part in table}
