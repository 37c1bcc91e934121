"""What Optuna and the database cost: asks and tells of a search, and of a study that is already large."""

import functools
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest import mock

import optuna
from optuna.trial import TrialState

from bench.tasks import head_task, study
from pipeline.adapt.methods.lora import Lora
from pipeline.objective.objective import Objective
from pipeline.objective.passes import measure_pass
from pipeline.run.study_run import study_facts
from pipeline.search.coordinator import Coordinator
from pipeline.search.history import History
from pipeline.space import Ask, Cell, Values, cell_space, cells, full_space
from pipeline.store.database import open_storage
from pipeline.store.kept_adapters import Kept
from pipeline.store.ledger import Ledger
from pipeline.store.stored_study import create_or_resume
from pipeline.train.lane import Epoch, Lane

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Adds up the time of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[P, R]) -> Callable[P, R]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


@contextmanager
def timed_histories() -> Any:
    """Times what the histories of cells do: ask, report, judge, tell."""
    watch = Stopwatch()
    with mock.patch.multiple(
        History,
        **{name: watch.around(getattr(History, name)) for name in ("ask", "report", "should_prune", "tell")},
    ):
        yield watch


def searched(objective: Objective, folder: Path) -> dict[str, Any]:
    """Search one combination to the end of its budget; seconds in the database and in asks beside what was found."""
    name = objective.combination.name
    storage = open_storage(f"sqlite:///{folder / name}.db")
    stored = create_or_resume(storage, f"benchmark/{name}", {}, dict(objective.task.hashes), {})
    kept, size = Kept("benchmark", name), measure_pass(objective)
    with timed_histories() as asks, mock.patch.object(Kept, "save"):
        coordinator = Coordinator(objective, stored, kept, size)
        coordinator.run()
    trials = stored.get_trials(deepcopy=False)
    return {
        "trials": len(trials),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
        "best": stored.best_value,
        "database": coordinator.ledger.seconds,
        "asks": asks.seconds,
    }


def cost_of_a_trial(stored: int, database: Path, measured: int = 56) -> dict[str, float]:
    """Milliseconds a trial, asked, reported for ten epochs, told and stored, in a study that holds many already.

    They are spread evenly over 14 cells, as the published sweep has; written and asked as a run does, by TPE.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = study(["int1"], trials=100_000, sampler={"method": "tpe", "startup": 10}, ask_ahead=1)
        objective = Objective(head_task(Path(folder), 2_000, 500), spec.combination[0], spec.search)
        storage = open_storage(f"sqlite:///{database}")
        facts = study_facts(spec, objective)
        own = create_or_resume(
            storage, "benchmark/int1-lora", {"search": spec.search.model_dump(mode="json")}, {}, facts
        )
        histories = {
            cell: History(cell, spec.search, cell_space(spec.search, Lora()), 0) for cell in cells(spec.search)
        }
        ledger = Ledger(own, full_space(spec.search, Lora()))
        generator = optuna.samplers.RandomSampler(seed=0)
        lane = objective.lane(Values(8, "paper", 16.0, "adam", 1e-3, 32))
        lane.curve, lane.best_epoch = [Epoch(1.0, 1.0, 0.1 * epoch) for epoch in range(10)], 10
        finish = functools.partial(_finish, ledger, objective, lane)
        for number in range(stored // len(histories)):
            for cell, history in histories.items():
                history.study.sampler = generator
                finish(history, _random_ask(history, cell, number))
        before, started = ledger.seconds, time.perf_counter()
        with timed_histories() as asks:
            for _ in range(measured // len(histories)):
                for history in histories.values():
                    finish(history, *history.ask(None, {}))
        took = time.perf_counter() - started
        storage.remove_session()
        storage.engine.dispose()
    return {
        "milliseconds": 1e3 * took / measured,
        "asks": 1e3 * asks.seconds / measured,
        "database": 1e3 * (ledger.seconds - before) / measured,
    }


def _random_ask(history: History, cell: Cell, number: int) -> Ask:
    trial = history.study.ask(history._space)
    trial.set_user_attr("origin", "start-up")
    return Ask(cell, number, "start-up", Values(rank=cell.rank, init=cell.init, **trial.params))


def _finish(ledger: Ledger, objective: Objective, lane: Lane, history: History, ask: Ask) -> None:
    accuracies = [(1 - ask.values.lr) * (epoch + 1) / 10 for epoch in range(10)]
    for epoch, accuracy in enumerate(accuracies, start=1):
        history.report(ask.number, epoch, accuracy)
    ledger.finish(ask, TrialState.COMPLETE, accuracies, objective.attributes(lane, ask.values), accuracies[-1])
    history.tell(ask.number, TrialState.COMPLETE, accuracies[-1])
