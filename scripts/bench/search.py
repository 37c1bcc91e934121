"""What a search costs beside training: asks, reports, tells and the database; commands and a mapped cache."""

import tempfile
import threading
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from bench import process
from bench.parts import Measured, Setup, listed
from bench.tasks import head_task, study
from pipeline.config.spec import StudySpec
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass, measure_pass
from pipeline.run.study_facts import study_facts
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


def stored(setup: Setup) -> Measured:
    """The cost of a trial beside its training, of two commands, and of a mapped cache."""
    sizes = setup.sizes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = {
            f"{count:,}": setup.measure(trial_milliseconds, count, folder / f"{count}.db", sizes.classes)
            for count in sizes.stored
        }
        url = f"sqlite:///{folder / f'{sizes.stored[0]}.db'}"
        help_seconds = process.command_seconds("--help", cwd=folder, tries=sizes.tries)
        status_seconds = process.command_seconds("status", "benchmark", "--storage", url, cwd=folder, tries=sizes.tries)
    mapped = setup.measure(process.mapped_cache, sizes.megabytes)
    return Measured(
        {
            "trial_milliseconds": {count.replace(",", ""): cost for count, cost in costs.items()},
            "help_seconds": help_seconds,
            "status_seconds": status_seconds,
            "mapped": mapped,
        },
        {
            "trial_milliseconds": "ask (TPE), start, ten reports, tell and storing (SQLite) of a trial, its training "
            "left out, in a study of 14 cells that already holds so many trials",
            "help_seconds": f"`restora --help`, best of {sizes.tries}",
            "status_seconds": f"`restora status` of a study of {sizes.stored[0]:,} trials, best of {sizes.tries}",
            "mapped": "growth of this process's resident memory that no file backs, by reading all of a mapped cache "
            "in random order",
        },
        [
            ("Optuna and SQLite, ms per trial, by trials stored", listed(costs, ".1f")),
            (
                f"memory grown by reading {mapped['cache_bytes'] / 1e9:.2f} GB of cache",
                f"{mapped['grown_bytes'] / 1e6:.0f} MB",
            ),
            ("restora --help", f"{help_seconds:.2f} s"),
            (f"restora status, {sizes.stored[0]:,} trials", f"{status_seconds:.2f} s"),
        ],
    )


def _asked_one_by_one(trials: int, sampler: dict[str, Any]) -> StudySpec:
    """A study whose cells ask for one trial at a time, and prune none."""
    return study(["int1"], trials=trials, ask_ahead=1, sampler=sampler, pruner={"method": "none"})
