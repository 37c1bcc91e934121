"""The history of a cell: its own trials, from which its sampler and its pruner learn, as an in-memory Optuna study."""

import random
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.cell import Cell
from pipeline.config.search_spec import SearchSpec
from pipeline.search.budget import next_wave
from pipeline.seeds import derive
from pipeline.space import Ask, Values, points
from pipeline.store.tally import Tally


class History:
    """The trials of one cell, and what it asks next.

    The seed of each ask is a hash of (study seed, cell, number), so what is asked depends on what was told alone. The
    sampler chooses the values of the first trial if ``first`` gives none. Values that were tried are not asked for
    again while the space has others.
    """

    def __init__(
        self, cell: Cell, search: SearchSpec, space: dict[str, BaseDistribution], seed: int, first: Values | None
    ) -> None:
        self.cell, self.search, self.seed, self.first, self._space = cell, search, seed, first, space
        self.told = Tally()
        """What the trials that were told came to. When a run resumes, the stored ones are told wave by wave again."""
        self._points = points(space)
        self._storage, pruner = InMemoryStorage(), search.pruner.build(search.sampler.startup)
        self.study = optuna.create_study(storage=self._storage, direction="maximize", pruner=pruner)
        self._study_id = self._storage.get_study_id_from_name(self.study.study_name)

    @property
    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def ask(self, neighbour: "History | None", stored: Mapping[int, FrozenTrial]) -> list[Ask]:
        """The cell's trials of the next wave; none once its budget is met, or it is exhausted.

        Some of the best values of the ``neighbour``, the next higher rank of the same init, are tried here once the
        start-up is over. Values of ``stored`` trials, by their number in this history, are asked for again.
        """
        started = self.told.done >= self.search.sampler.startup
        size = next_wave(self.search, self.told.done, self.told.left(self.search.trials))
        queued = self._neighbour_values(neighbour) if started and neighbour is not None else []
        return [self._ask_one(started, queued, stored) for _ in range(size)]

    def _ask_one(self, started: bool, queued: list[dict[str, Any]], stored: Mapping[int, FrozenTrial]) -> Ask:
        number = len(self._trials)
        known: dict[str, Any] | None = None
        if number in stored:
            origin, known = stored[number].user_attrs["origin"], stored[number].params
        elif number == 0 and self.first is not None:
            origin, known = "score", self.first.params()
        elif queued:
            origin, known = "neighbour", queued[0]
        else:
            origin = "sampler" if started else "start-up"
        queued[:1] = []
        if known is None:
            self.study.sampler = self.search.sampler.build(derive(self.seed, self.cell, "ask", number))
            trial = self.study.ask(self._space)
            trial.set_user_attr("origin", origin)
            params = self._untried(number, trial.params)
        else:
            params = {name: known[name] for name in self._space}
            running = create_trial(state=TrialState.RUNNING, params=params, distributions=self._space)
            running.set_user_attr("origin", origin)
            self.study.add_trial(running)
        return Ask(self.cell, number, origin, Values.of({"rank": self.cell.rank, "init": self.cell.init, **params}))

    def _untried(self, number: int, params: dict[str, Any]) -> dict[str, Any]:
        """What trial ``number``, whose values the sampler chose, tries: others if these are known, and some are left.

        Equal values of a cell train equally, so known values are not trained again unless they failed.
        """
        others = [trial for trial in self._trials if trial.number != number]
        tried = [trial.params for trial in others]
        if params not in tried or self._points is None:
            return params
        done = [trial.params for trial in others if trial.state != TrialState.FAIL]
        left = next(filter(None, ([p for p in self._points if p not in known] for known in (tried, done))), [params])
        params = random.Random(derive(self.seed, self.cell, "untried", number)).choice(left)
        trial_id = self._trial_id(number)
        for name, distribution in self._space.items():
            internal = distribution.to_internal_repr(params[name])
            self._storage.set_trial_param(trial_id, name, internal, distribution)
        return params

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _neighbour_values(self, neighbour: "History") -> list[dict[str, Any]]:
        """The neighbour's best values that were not tried here, as many as ``warm_start`` still allows."""
        complete = [trial for trial in neighbour._trials if trial.state == TrialState.COMPLETE]
        best = sorted(complete, key=lambda trial: -(trial.value or 0.0))[: self.search.warm_start]
        allowed = self.search.warm_start - sum(trial.user_attrs["origin"] == "neighbour" for trial in self._trials)
        tried = [trial.params for trial in self._trials]
        return [trial.params for trial in best if trial.params not in tried][: max(0, allowed)]

    def report(self, number: int, epoch: int, accuracy: float) -> None:
        """Report a trial's validation accuracy after an epoch, counted from 1, to the pruner."""
        self._storage.set_trial_intermediate_value(self._trial_id(number), epoch, accuracy)

    def should_prune(self, number: int) -> bool:
        """Whether the cell's pruner ends a trial after its last reported epoch."""
        return self.study.pruner.prune(self.study, self._trials[number])

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """End a trial; its value counts if it is complete."""
        self.study.tell(number, value if state == TrialState.COMPLETE else None, state)
        self.told.add(state, number, value, {"ask": number})
