"""What a cell learns from: its own trials alone, as an in-memory Optuna study."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.config.search_spec import SearchSpec
from pipeline.seeds import derive
from pipeline.space import Ask, Cell, Values

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that a budget counts."""


class History:
    """The trials of one cell, and what it asks next.

    The seed of each ask is a hash of (study seed, cell, number): what is asked depends on nothing but what was told.

    Args:
        cell: The cell.
        search: Budget, sampler and pruner.
        space: What is searched.
        seed: The study's seed.
        first: What it tries first, where its score has earned it that.
    """

    def __init__(
        self,
        cell: Cell,
        search: SearchSpec,
        space: Mapping[str, BaseDistribution],
        seed: int,
        first: Values | None = None,
    ) -> None:
        self.cell, self.search, self.seed, self.first = cell, search, seed, first
        self.study = optuna.create_study(direction="maximize", pruner=search.pruner.build(search.sampler.startup))
        self._space = dict(space)

    @property
    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def count(self, *states: TrialState) -> int:
        return sum(trial.state in states for trial in self._trials)

    @property
    def left(self) -> int:
        """Trials that the budget still allows; none once as many have failed as the budget has."""
        exhausted = self.count(TrialState.FAIL) >= self.search.trials
        return 0 if exhausted else self.search.trials - self.count(*COUNTED)

    def ask(self, neighbour: "History | None", stored: Mapping[int, FrozenTrial]) -> list[Ask]:
        """The cell's trials of the next wave.

        Args:
            neighbour: The next higher rank of the same init; some of its best values are tried once start-up is over.
            stored: Trials of the stored study by number; they stand for what was asked when they were new.
        """
        to_start = self.search.sampler.startup - self.count(*COUNTED)
        started = to_start <= 0
        # A wave that starts up ends with the start-up: a long one would leave the sampler nothing of the budget.
        size = min(self.search.ask_ahead, self.left, self.search.trials if started else to_start)
        queued = self._neighbour_values(neighbour) if started and neighbour is not None else []
        return [self._ask_one(started, queued, stored) for _ in range(size)]

    def _ask_one(self, started: bool, queued: list[dict[str, Any]], stored: Mapping[int, FrozenTrial]) -> Ask:
        number = len(self._trials)
        if number in stored:
            origin = stored[number].user_attrs["origin"]
            params = {name: stored[number].params[name] for name in self._space}
            self._add_running(params, origin)
        elif number == 0 and self.first is not None:
            origin, params = "score", {name: self.first.params()[name] for name in self._space}
            self._add_running(params, origin)
        elif queued:
            origin, params = "neighbour", queued[0]
            self._add_running(params, origin)
        else:
            origin = "sampler" if started else "start-up"
            self.study.sampler = self.search.sampler.build(derive(self.seed, self.cell, "ask", number))
            trial = self.study.ask(self._space)
            trial.set_user_attr("origin", origin)
            params = trial.params
        queued[:1] = []
        return Ask(self.cell, number, origin, Values.of({"rank": self.cell.rank, "init": self.cell.init, **params}))

    def _add_running(self, params: dict[str, Any], origin: str) -> None:
        trial = create_trial(
            state=TrialState.RUNNING, params=params, distributions=self._space, user_attrs={"origin": origin}
        )
        self.study.add_trial(trial)

    def _neighbour_values(self, neighbour: "History") -> list[dict[str, Any]]:
        """The neighbour's best values that are new here, as many as ``warm_start`` still allows."""
        complete = [trial for trial in neighbour._trials if trial.state == TrialState.COMPLETE]
        best = sorted(complete, key=lambda trial: -(trial.value or 0.0))[: self.search.warm_start]
        allowed = self.search.warm_start - sum(trial.user_attrs["origin"] == "neighbour" for trial in self._trials)
        tried = [trial.params for trial in self._trials]
        return [trial.params for trial in best if trial.params not in tried][: max(0, allowed)]

    def report(self, number: int, epoch: int, accuracy: float) -> None:
        """Note a trial's accuracy after an epoch, counted from 1."""
        self.study._storage.set_trial_intermediate_value(self._trials[number]._trial_id, epoch, accuracy)

    def should_prune(self, number: int) -> bool:
        """Whether the cell's pruner ends a trial after what it reported last."""
        return self.study.pruner.prune(self.study, self._trials[number])

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """End a trial; ``value`` only where it is complete."""
        self.study.tell(number, value, state)
