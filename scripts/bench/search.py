"""What a search costs beside training: asks, reports, tells, and the database."""

import tempfile
import threading
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from bench.tasks import head_task, study
from pipeline.config.spec import StudySpec
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass, measure_pass
from pipeline.run.study_run import study_facts
from pipeline.search.coordinator import Coordinator
from pipeline.space import Values, cells
from pipeline.store.database import open_storage
from pipeline.store.kept_adapters import Kept
from pipeline.store.stored_study import create_or_resume
from pipeline.train.lane import Epoch, Lane


class TimedObjective(Objective):
    """An objective that measures for how many seconds at least one cohort trains."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.training_seconds = 0.0
        self._cohorts, self._since, self._counting = 0, 0.0, threading.Lock()

    def train_epoch(self, lanes: list[Lane]) -> None:
        """Train one cohort; several threads may call this at once."""
        with self._counting:
            if self._cohorts == 0:
                self._since = time.perf_counter()
            self._cohorts += 1
        try:
            super().train_epoch(lanes)
        finally:
            with self._counting:
                self._cohorts -= 1
                if self._cohorts == 0:
                    self.training_seconds += time.perf_counter() - self._since


class UntrainedObjective(Objective):
    """An objective whose epochs take no time; accuracy rises with every epoch, most where the learning rate is low."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lane_times: list[float] = []
        """Time of ``time.perf_counter`` at the start of each trial."""

    def lane(self, values: Values, *, order_seed: int | None = None) -> Lane:
        """Start one trial."""
        self.lane_times.append(time.perf_counter())
        return super().lane(values, order_seed=order_seed)

    def train_epoch(self, lanes: list[Lane]) -> None:
        """Append one epoch to each lane."""
        for lane in lanes:
            epoch = len(lane.curve) + 1
            lane.curve.append(Epoch(1.0, 1.0, (1 - lane.lr) * epoch / self.recipe.epochs))
            lane.best_epoch, lane.best_parameters = epoch, lane.parameters


def search_seconds(objective: TimedObjective) -> dict[str, Any]:
    """Search one combination until its budget is spent; database and adapters lie in the working folder.

    Returns:
        ``seconds`` of the search, ``training`` seconds of these, the counts ``trials`` and ``pruned``, and the ``best``
        validation accuracy.
    """
    name = objective.combination.name
    storage = open_storage(f"sqlite:///{name}.db")
    stored = create_or_resume(storage, f"benchmark/{name}", {}, dict(objective.combination.task.hashes), {})
    size = measure_pass(objective)
    before, started = objective.training_seconds, time.perf_counter()
    Coordinator(objective, stored, Kept("benchmark", name), size).run()
    seconds, training = time.perf_counter() - started, objective.training_seconds - before
    trials, best = stored.get_trials(deepcopy=False), stored.best_value
    storage.remove_session()
    storage.engine.dispose()
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    return {"seconds": seconds, "training": training, "trials": len(trials), "pruned": pruned, "best": best}


def trial_milliseconds(stored: int, database: Path, classes: int, waves: int = 4) -> float:
    """Milliseconds that a search spends on one trial beside its training, in a study that already holds many.

    The study has 14 cells, as each combination of the published sweep. Its first trials are asked at random, the
    measured ones by TPE. Every trial has ten epochs; a wave is one trial of every cell.

    Args:
        stored: Trials before the measured ones.
        database: The SQLite file; it is kept.
        classes: Outputs of the head.
        waves: Waves to measure.
    """
    count = len(cells(study(["int1"]).search))
    filled, whole = stored // count, stored // count + waves + 1
    at_random = _asked_one_by_one(trials=filled, sampler={"method": "random"})
    measured = _asked_one_by_one(trials=whole, sampler={"method": "tpe", "startup": 1})
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        task, storage = head_task(Path(folder), 2_000, 500, classes), open_storage(f"sqlite:///{database}")
        for spec in (at_random, measured):
            objective = UntrainedObjective(task, spec.combination[0], spec.search)
            pinned = {"search": measured.search.model_dump(mode="json")}
            stored_study = create_or_resume(
                storage, "benchmark/int1-lora", pinned, {}, study_facts(measured, objective.combination)
            )
            Coordinator(objective, stored_study, Kept("benchmark", "int1-lora"), Pass(0, lanes=16)).run()
        storage.remove_session()
        storage.engine.dispose()
    return 1e3 * (objective.lane_times[-count] - objective.lane_times[0]) / (len(objective.lane_times) - count)


def _asked_one_by_one(trials: int, sampler: dict[str, Any]) -> StudySpec:
    """A study whose cells ask for one trial at a time, and prune none."""
    return study(["int1"], trials=trials, ask_ahead=1, sampler=sampler, pruner={"method": "none"})
