"""A whole study: each combination searched, its winners tested."""

from collections.abc import Callable

import optuna
import torch
from optuna.storages import RDBStorage

from pipeline import paths
from pipeline.compress.stats import Statistics
from pipeline.errors import IntegrityError
from pipeline.search.keep import Kept
from pipeline.search.lock import exclusive
from pipeline.search.objective import Objective
from pipeline.search.select import measure_references, test_winners
from pipeline.search.storage import alone, create_or_resume, study_name
from pipeline.search.study import Coordinator, Progress
from pipeline.spec import SearchSpec, StudySpec, pinned
from pipeline.task import Task, prepare
from pipeline.train.guard import Guard

MOST_LANES = 8
PASS_NUMBERS = 2**21
"""Input numbers of one pass, all lanes together: batches of 128 digits go eight at a time, batches of photos alone."""


def run_study(
    spec: StudySpec,
    storage: RDBStorage,
    *,
    device: str,
    guard: Guard,
    cohort: int | None,
    say: Callable[[str], None],
    show: Callable[[str, Progress], None],
) -> None:
    """Create or resume a study: search until every budget is met, then test the winners. Running it again is right.

    Args:
        spec: The study.
        storage: The database of the stored studies.
        device: Where to train.
        guard: What stops it early.
        cohort: Lanes trained in one pass; None chooses by the size of a batch.
        say: Told in a line what begins or ended.
        show: Told after every epoch how far the combination of that name is.

    Raises:
        IntegrityError: A combination cannot be compressed or started; the others are run all the same.
    """
    with exclusive(paths.LOCKS / f"{spec.name}.lock", f"study '{spec.name}'"), alone(storage, spec.name):
        task = prepare(spec.task, device=device, train_baseline=False)
        objectives = make_objectives(spec, task, device)
        if not task.trained:  # only now, for targets and ranks are known to fit
            task = prepare(spec.task, device=device, say=say, check=guard.check)
            objectives = make_objectives(spec, task, device)
        searched, failed = {}, {}
        for name, objective in objectives.items():
            try:
                searched[name] = _search(spec, storage, objective, guard, cohort, say, show)
            except IntegrityError as error:
                failed[name] = error
                say(f"{name}: failed: {error}")
        for name, (study, kept) in searched.items():
            say(f"{name}: testing the winners")
            test_winners(objectives[name], study, kept, spec.seeds, guard.check)
        if failed:
            said = "; ".join(f"'{name}': {error}" for name, error in failed.items())
            raise IntegrityError(f"these combinations failed, the others are done: {said}")


def _search(
    spec: StudySpec,
    storage: RDBStorage,
    objective: Objective,
    guard: Guard,
    cohort: int | None,
    say: Callable[[str], None],
    show: Callable[[str, Progress], None],
) -> tuple[optuna.Study, Kept]:
    """Search one combination until its budgets are met."""
    name, task = objective.combination.name, objective.task
    study = create_or_resume(
        storage,
        study_name(spec.name, name),
        pinned(spec, objective.combination),
        dict(task.hashes),
        study_facts(spec, objective),
    )
    kept = Kept(spec.name, name, study.user_attrs["id"])
    measure_references(objective, study, {"val": task.val})
    say(f"{name}: {len(objective.targets)} layers compressed")
    lanes = cohort or lanes_at_once(task, spec.search)
    if lanes > 1 and not objective.lanes_agree():
        say(f"{name}: this model does not treat the images of a batch apart, so trials are trained one at a time")
        lanes = 1
    Coordinator(objective, study, kept, guard, lanes, lambda progress: show(name, progress)).run()
    return study, kept


def lanes_at_once(task: Task, search: SearchSpec) -> int:
    """How many lanes fit in one pass: small batches gain from company, large ones only take memory."""
    images, _ = next(iter(task.train.batches(1, torch.tensor([0]))))
    fitting = PASS_NUMBERS // (int(max(search.batch_size)) * images.numel())
    return min(MOST_LANES, max(1, fitting))


def make_objectives(spec: StudySpec, task: Task, device: str) -> dict[str, Objective]:
    """The objective of each combination by name; they share the task's layer statistics."""
    statistics = Statistics(task.model, task.train)
    return {
        combination.name: Objective(
            task, combination, spec.search, seed=spec.seed, device=device, statistics=statistics
        )
        for combination in spec.combination
    }


def study_facts(spec: StudySpec, objective: Objective) -> dict[str, object]:
    """What the stored study says of itself beside its trials."""
    first = objective.facts(spec.search.ranks[0])
    return {
        "study": spec.name,
        "combination": objective.combination.name,
        "budget": spec.search.trials,
        "task": dict(objective.task.description),
        "targets": len(objective.targets),
        "dense_bytes": first.size.dense_bytes,
        "compressed_bytes": first.size.base_bytes,
        "dense_macs": first.dense_macs,
    }
