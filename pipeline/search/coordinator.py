"""The coordinator of a combination: waves of asks from every cell, trained as cohorts, told, and written."""

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.search_spec import SearchSpec
from pipeline.guard import StopTraining
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass, pack
from pipeline.objective.scores import best_scored, score_cells
from pipeline.results.progress import CellProgress, Progress
from pipeline.search.events import Events
from pipeline.search.history import History
from pipeline.space import Ask, Cell, Values, cell_of, cell_space, cells, full_space, middle
from pipeline.store.kept_adapters import Kept
from pipeline.store.ledger import Ledger, bury_abandoned, is_told, was_killed
from pipeline.train.lane import Lane
from pipeline.train.parallel import side_by_side, workers
from pipeline.wording import cell_name

logger = logging.getLogger(__name__)

KILLS = 3
"""How often a trial is tried again whose run was killed under it."""


@dataclass
class _Trial:
    """One trial of a wave."""

    ask: Ask
    lane: Lane
    state: TrialState = TrialState.RUNNING

    @property
    def accuracies(self) -> list[float]:
        return [epoch.val_accuracy for epoch in self.lane.curve]

    @property
    def value(self) -> float | None:
        """That of its best epoch where it is complete, of its last where it was pruned, as Optuna has it."""
        if self.state == TrialState.COMPLETE:
            return self.lane.best
        return self.accuracies[-1] if self.state == TrialState.PRUNED else None


@dataclass
class Coordinator:
    """Searches one combination until every cell's budget is met.

    Each cell learns from its own history. All cells ask, train and tell one wave together; every lane of a wave ends an
    epoch before any is pruned, so what is pruned does not depend on how lanes are packed into cohorts.

    Args:
        objective: What trains.
        study: The stored study.
        kept: Where the best adapter of each cell is kept.
        size: What one pass holds.
        events: Receives how far the cells are, before the first wave, and before and after every epoch of a wave.
        ledger: What writes to the stored study, from the start of a run.
    """

    objective: Objective
    study: optuna.Study
    kept: Kept
    size: Pass
    events: Events = field(default_factory=Events)
    ledger: Ledger = field(init=False)
    _best: dict[Cell, float] = field(default_factory=dict)
    _ended: dict[Cell, Counter[TrialState]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def _name(self) -> str:
        return self.objective.combination.name

    def run(self) -> None:
        """Search until no cell has budget left.

        Raises:
            StopTraining: ``check_stop`` said so; what had finished is stored, the rest will be asked for again.
        """
        search, adapter, seed = self.objective.search, self.objective.adapter, self.objective.seed
        bury_abandoned(self.study)
        self.ledger = Ledger(self.study, full_space(search, adapter))
        space = cell_space(search, adapter)
        stored: dict[Cell, dict[int, FrozenTrial]] = defaultdict(dict)
        killed: Counter[tuple[Cell, int]] = Counter()
        for trial in self.study.get_trials(deepcopy=False):
            if is_told(trial):
                stored[cell_of(trial.params)][trial.user_attrs["ask"]] = trial
                self._count(cell_of(trial.params), trial.state, trial.value)
            elif was_killed(trial):
                killed[cell_of(trial.params), trial.user_attrs["ask"]] += 1
        first = self._queued({cell for cell in cells(search) if 0 not in stored[cell]})
        self._histories = {cell: History(cell, search, space, seed, first.get(cell)) for cell in cells(search)}
        self._show([])
        while asks := list(self._ask(stored)):
            old = [(ask, stored[ask.cell][ask.number]) for ask in asks if ask.number in stored[ask.cell]]
            for ask, trial in old:
                for epoch, accuracy in trial.intermediate_values.items():
                    self._histories[ask.cell].report(ask.number, epoch, accuracy)
            new = [ask for ask in asks if ask.number not in stored[ask.cell]]
            trials = self._train(new, killed)
            ended = [(ask, trial.state, trial.value) for ask, trial in old]
            ended += [(trial.ask, trial.state, trial.value) for trial in trials]
            for ask, state, value in ended:
                self._histories[ask.cell].tell(ask.number, state, value if state == TrialState.COMPLETE else None)

    def _queued(self, unbegun: set[Cell]) -> dict[Cell, Values]:
        """What the best-scored cells try first; nothing is scored where every cell has begun."""
        search, adapter = self.objective.search, self.objective.adapter
        if not search.queued or not unbegun:
            return {}
        best = best_scored(score_cells(self.objective), search.queued)
        names = "; ".join(cell_name(cell.rank, cell.init, _unit(search)) for cell in best)
        logger.info(
            f"{self._name}: begin with the middle of every range, for they score best before any training: {names}"
        )
        return {cell: middle(cell, search, adapter) for cell in best}

    def _ask(self, stored: dict[Cell, dict[int, FrozenTrial]]) -> Iterator[Ask]:
        ranks = sorted(self.objective.search.ranks)
        for cell, history in self._histories.items():
            higher = [rank for rank in ranks if rank > cell.rank]
            neighbour = self._histories[Cell(higher[0], cell.init)] if higher else None
            yield from history.ask(neighbour, stored[cell])

    def _count(self, cell: Cell, state: TrialState, value: float | None) -> bool:
        """Count a trial that ended; says whether it is the best of its cell so far."""
        self._ended[cell][state] += 1
        if state != TrialState.COMPLETE or value is None or value <= self._best.get(cell, -1.0):
            return False
        self._best[cell] = value
        return True

    def _train(self, asks: list[Ask], killed: Counter[tuple[Cell, int]]) -> list[_Trial]:
        """Train the new trials of a wave, and write each as it ends."""
        if not asks:
            return []
        trials = [_Trial(ask, self.objective.lane(ask.values)) for ask in asks]
        for trial in trials:
            if killed[trial.ask.cell, trial.ask.number] >= KILLS:
                trial.lane.failure = f"its run was killed {KILLS} times while it trained"
                self._finish(trial, TrialState.FAIL)
        try:
            self._show(trials)
            while running := [trial for trial in trials if trial.state == TrialState.RUNNING]:
                self._train_epoch(running)
                self._judge(running)
                self._show(trials)
        except (StopTraining, KeyboardInterrupt) as stop:
            for trial in trials:
                if trial.state == TrialState.RUNNING:
                    self._finish(trial, TrialState.FAIL, interrupted=str(stop) or "interrupted twice")
            raise
        return trials

    def _train_epoch(self, trials: list[_Trial]) -> None:
        for trial in trials:
            known = self.objective.attributes(trial.lane, trial.ask.values)
            self.ledger.progress(trial.ask, trial.accuracies, known)
        device = self.objective.recipe.device
        cohorts = pack([trial.lane for trial in trials], self.size, workers(device))
        side_by_side([functools.partial(self.objective.train_epoch, cohort) for cohort in cohorts], device)

    def _judge(self, trials: list[_Trial]) -> None:
        """Report the epoch of all trials, then end those that failed, are pruned, or are complete."""
        for trial in trials:
            if trial.lane.failure is None:
                epoch = len(trial.lane.curve)
                self._histories[trial.ask.cell].report(trial.ask.number, epoch, trial.accuracies[-1])
        for trial in trials:
            if trial.lane.failure is not None:
                self._finish(trial, TrialState.FAIL)
            elif len(trial.lane.curve) == self.objective.recipe.epochs:
                self._finish(trial, TrialState.COMPLETE)
            elif self._histories[trial.ask.cell].should_prune(trial.ask.number):
                self._finish(trial, TrialState.PRUNED)

    def _finish(self, trial: _Trial, state: TrialState, interrupted: str | None = None) -> None:
        trial.state = state
        attributes = self.objective.attributes(trial.lane, trial.ask.values)
        if interrupted:
            attributes |= {"interrupted": True, "reason": interrupted}
        number = self.ledger.finish(trial.ask, state, trial.accuracies, attributes, trial.value)
        if self._count(trial.ask.cell, state, trial.value):
            self.kept.save_best(self.study, trial.ask.cell, number, trial.lane.best_parameters)

    def _show(self, wave: list[_Trial]) -> None:
        running: dict[Cell, list[int]] = defaultdict(list)
        for trial in wave:
            if trial.state == TrialState.RUNNING:
                running[trial.ask.cell].append(len(trial.lane.curve))
        search, own = self.objective.search, [self._place(cell, running[cell]) for cell in self._histories]
        self.events.progressed(
            self._name, Progress(tuple(own), search.epochs, self.objective.task.metric, _unit(search))
        )

    def _place(self, cell: Cell, running: list[int]) -> CellProgress:
        ended = self._ended[cell]
        return CellProgress(
            rank=cell.rank,
            init=cell.init,
            budget=self.objective.search.trials,
            complete=ended[TrialState.COMPLETE],
            pruned=ended[TrialState.PRUNED],
            failed=ended[TrialState.FAIL],
            running=len(running),
            epoch=max(running, default=0),
            best=self._best.get(cell),
        )


def _unit(search: SearchSpec) -> str | None:
    return search.allocation.unit if search.allocation else None
