"""A whole study: each combination searched, its winners tested."""

from collections.abc import Callable

from optuna.storages import RDBStorage

from pipeline import paths
from pipeline.compress.stats import Statistics
from pipeline.search.keep import Kept
from pipeline.search.lock import exclusive
from pipeline.search.objective import Objective
from pipeline.search.select import measure_references, test_winners
from pipeline.search.storage import create_or_resume, study_name
from pipeline.search.study import Coordinator, Progress
from pipeline.spec import CombinationSpec, StudySpec, pinned
from pipeline.task import Task, prepare
from pipeline.train.guard import Guard


def run_study(
    spec: StudySpec,
    storage: RDBStorage,
    *,
    device: str,
    guard: Guard,
    cohort: int,
    say: Callable[[str], None],
    show: Callable[[str, Progress], None],
) -> None:
    """Create or resume a study: search until every budget is met, then test the winners. Running it again is right.

    Args:
        spec: The study.
        storage: The database of the stored studies.
        device: Where to train.
        guard: What stops it early.
        cohort: Lanes trained in one pass.
        say: Told in a line what begins or ended.
        show: Told after every epoch how far the combination of that name is.
    """
    with exclusive(paths.LOCKS / f"{spec.name}.lock", f"study '{spec.name}'"):
        task = prepare(spec.task, device=device, say=say)
        statistics = Statistics(task.model, task.train)
        objectives = {
            combination: Objective(task, combination, spec.search, seed=spec.seed, device=device, statistics=statistics)
            for combination in spec.combination
        }
        for combination, objective in objectives.items():
            kept = Kept(spec.name, combination.name)
            study = create_or_resume(
                storage,
                study_name(spec.name, combination.name),
                pinned(spec, combination),
                dict(task.hashes),
                study_facts(spec, combination, objective, task),
            )
            measure_references(objective, study, {"val": task.val})
            say(f"{combination.name}: {len(objective.targets)} layers compressed")

            def show_own(progress: Progress, name: str = combination.name) -> None:
                show(name, progress)

            Coordinator(objective, study, kept, guard, cohort, show_own).run()
            say(f"{combination.name}: testing the winners")
            test_winners(objective, study, kept, spec.seeds, guard.check)


def study_facts(spec: StudySpec, combination: CombinationSpec, objective: Objective, task: Task) -> dict[str, object]:
    """What the stored study says of itself beside its trials."""
    first = objective.facts(spec.search.ranks[0])
    return {
        "study": spec.name,
        "combination": combination.name,
        "budget": spec.search.trials,
        "task": dict(task.description),
        "targets": len(objective.targets),
        "dense_bytes": first.size.dense_bytes,
        "compressed_bytes": first.size.base_bytes,
        "dense_macs": first.dense_macs,
    }
