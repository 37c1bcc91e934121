"""The coordinator of a combination: it asks, trains, judges, writes and tells, one wave of trials after another."""

import functools
import logging
from collections import Counter, defaultdict

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.cell import Cell, cell_of
from pipeline.guard import StopTraining
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass, pack
from pipeline.objective.scores import ranked, score_cells
from pipeline.results.progress import CellProgress, Progress
from pipeline.search.events import Events
from pipeline.search.history import History
from pipeline.space import Ask, Values, cell_space, cells, full_space, middle
from pipeline.store.kept_adapters import Kept
from pipeline.store.ledger import Ledger, bury_abandoned, is_told
from pipeline.train.lane import Lane
from pipeline.train.loop import side_by_side, workers
from pipeline.wording import cell_name

logger = logging.getLogger(__name__)

Outcome = tuple[TrialState, float | None]
"""The final state and the value of a trial."""
KILLS = 3
"""How often a trial is tried again after its run was killed."""


class Coordinator:
    """Searches one combination until every cell's budget is met.

    Each cell learns from its own history. All cells ask, train and tell one wave together. All lanes of a wave end an
    epoch before any is pruned, so pruning does not depend on how lanes are packed into cohorts.
    """

    def __init__(
        self, objective: Objective, study: optuna.Study, kept: Kept, size: Pass, events: Events | None = None
    ) -> None:
        self.objective, self.study, self.kept, self.size = objective, study, kept, size
        self.combination, self.events = objective.combination, events or Events()
        bury_abandoned(study)
        self.ledger = Ledger(study, full_space(self.combination.search, self.combination.adapter))
        self._stored: dict[Cell, dict[int, FrozenTrial]] = defaultdict(dict)
        self._kills: Counter[tuple[Cell, int]] = Counter()
        self._running: dict[Ask, Lane] = {}
        self._outcomes: dict[Ask, Outcome] = {}
        for trial in study.get_trials(deepcopy=False):
            if is_told(trial):
                self._stored[cell_of(trial.params)][trial.user_attrs["ask"]] = trial
            elif "killed" in trial.user_attrs:
                self._kills[cell_of(trial.params), trial.user_attrs["ask"]] += 1

    def run(self) -> None:
        """Search until no cell has budget left.

        Stored trials are not trained again: they are told to the histories in the waves in which they were asked for.

        Raises:
            StopTraining: ``check_stop`` said so. Trials that had ended are stored, the others will be asked for again.
        """
        search, seed, first = self.combination.search, self.combination.seed, self._first_values()
        space = cell_space(search, self.combination.adapter)
        self._histories = {cell: History(cell, search, space, seed, first.get(cell)) for cell in cells(search)}
        self._publish()
        while asks := self._ask():
            outcomes: dict[Ask, Outcome] = {}
            for ask in asks:
                if trial := self._stored[ask.cell].get(ask.number):
                    for epoch, accuracy in trial.intermediate_values.items():
                        self._histories[ask.cell].report(ask.number, epoch, accuracy)
                    outcomes[ask] = trial.state, trial.value
            outcomes |= self._train([ask for ask in asks if ask not in outcomes])
            for ask, (state, value) in outcomes.items():
                self._histories[ask.cell].tell(ask.number, state, value)

    def _first_values(self) -> dict[Cell, Values]:
        """The values that the best-scored cells try first; nothing is scored once every cell has begun."""
        search = self.combination.search
        if not search.queued or all(0 in self._stored[cell] for cell in cells(search)):
            return {}
        best = [score.cell for score in ranked(score_cells(self.objective))[: search.queued]]
        names = "; ".join(cell_name(cell.rank, cell.init, search.budget_unit) for cell in best)
        logger.info(f"{self.combination.name}: the best-scoring cells start from mid-range values: {names}")
        return {cell: middle(cell, search, self.combination.adapter) for cell in best}

    def _ask(self) -> list[Ask]:
        """The asks of the next wave, of all cells; a cell may take over values of the next higher rank of its init."""
        ranks, asks = sorted(self.combination.search.ranks), []
        for cell, history in self._histories.items():
            higher = [rank for rank in ranks if rank > cell.rank]
            neighbour = self._histories[Cell(higher[0], cell.init)] if higher else None
            asks += history.ask(neighbour, self._stored[cell])
        return asks

    def _train(self, asks: list[Ask]) -> dict[Ask, Outcome]:
        """Train the new trials of a wave together, and write each when it ends."""
        if not asks:
            return {}
        device = self.objective.recipe.device
        self._running, self._outcomes = {ask: self.objective.lane(ask.values) for ask in asks}, {}
        for ask in asks:
            if self._kills[ask.cell, ask.number] >= KILLS:
                self._running[ask].failure = f"its run was killed {KILLS} times while it trained"
                self._finish(ask, TrialState.FAIL)
        try:
            self._publish()
            while self._running:
                for ask, lane in self._running.items():
                    attributes = functools.partial(self.objective.attributes, lane, ask.values)
                    self.ledger.progress(ask, _accuracies(lane), attributes)
                cohorts = pack(self._running.values(), self.size, workers(device))
                side_by_side([functools.partial(self.objective.train_epoch, cohort) for cohort in cohorts], device)
                self._judge()
                self._publish()
        except (StopTraining, KeyboardInterrupt) as stop:
            for ask in list(self._running):
                self._finish(ask, TrialState.FAIL, interrupted=str(stop) or "interrupted twice")
            raise
        return self._outcomes

    def _judge(self) -> None:
        """Report the last epoch of all running trials, then end those that failed, are complete, or are pruned."""
        running = dict(self._running)
        for ask, lane in running.items():
            if lane.failure is None:
                self._histories[ask.cell].report(ask.number, len(lane.curve), lane.curve[-1].val_accuracy)
        for ask, lane in running.items():
            if lane.failure is not None:
                self._finish(ask, TrialState.FAIL)
            elif len(lane.curve) == self.objective.recipe.epochs:
                self._finish(ask, TrialState.COMPLETE)
            elif self._histories[ask.cell].should_prune(ask.number):
                self._finish(ask, TrialState.PRUNED)

    def _finish(self, ask: Ask, state: TrialState, interrupted: str | None = None) -> None:
        """End a trial: write it, and keep its adapter if it is the best of its cell so far.

        Its value is that of the best epoch if it is complete, and of the last if it was pruned (Optuna's convention).
        """
        lane = self._running.pop(ask)
        value = lane.best if state == TrialState.COMPLETE else None
        if state == TrialState.PRUNED:
            value = lane.curve[-1].val_accuracy
        self._outcomes[ask] = state, value
        attributes = self.objective.attributes(lane, ask.values)
        if interrupted:
            attributes |= {"interrupted": True, "reason": interrupted}
        number = self.ledger.finish(ask, state, _accuracies(lane), attributes, value)
        if self.ledger.tallies[ask.cell].trial == number:
            self.kept.save_best(self.study, ask.cell, number, lane.best_parameters)

    def _publish(self) -> None:
        search, epochs = self.combination.search, defaultdict[Cell, list[int]](list)
        for ask, lane in self._running.items():
            epochs[ask.cell].append(len(lane.curve))
        tallies = self.ledger.tallies
        progress = (CellProgress.of(cell, search.trials, tallies[cell], epochs[cell]) for cell in self._histories)
        progressed = Progress(tuple(progress), search.epochs, self.combination.task.metric, search.budget_unit)
        self.events.progressed(self.combination.name, progressed)


def _accuracies(lane: Lane) -> list[float]:
    return [epoch.val_accuracy for epoch in lane.curve]
