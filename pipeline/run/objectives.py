"""The combinations and objectives of a study: as far as shapes decide, and of its trained baseline."""

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

from pipeline.compress.layer_statistics import Statistics
from pipeline.config.spec import StudySpec
from pipeline.errors import IntegrityError
from pipeline.objective.auto_options import decided, refuse_costly_options
from pipeline.objective.combination import Combination, arranged_model
from pipeline.objective.objective import Objective, make_features
from pipeline.run.failures import Refusals
from pipeline.run.recorded_spectra import Snapshot, keep_baseline_spectra, train_watched_baseline, watched_layers
from pipeline.task.contract import Task
from pipeline.task.opened_task import OpenedTask
from pipeline.task.prepare import prepare
from pipeline.train.cache.feature_cache import LIMIT

logger = logging.getLogger(__name__)
C = TypeVar("C", bound=Combination)


def make_combinations(kind: type[C], spec: StudySpec, task: Task, device: str) -> dict[str, C]:
    """The combinations of a study by name; they share the task's layer statistics."""
    statistics: dict[tuple[str, bool], Statistics] = {}
    made, refusals = {}, Refusals()
    for table in spec.combination:
        with refusals.of(table.name):
            arrangement = table.qkv, table.batch_norm == "folded"
            if arrangement not in statistics:
                statistics[arrangement] = Statistics(arranged_model(task, table.qkv, table.batch_norm), task.train)
            shared = statistics[arrangement]
            made[table.name] = kind(task, table, spec.search, seed=spec.seed, device=device, statistics=shared)
    refusals.raise_any()
    return made


def as_objectives(
    spec: StudySpec, combinations: Mapping[str, Combination], device: str, cache_limit: int = LIMIT
) -> dict[str, Objective]:
    """The objectives of combinations, which share the caches."""
    features = make_features(spec.compute, device, cache_limit)
    return {name: Objective.of(one, spec.compute, features) for name, one in combinations.items()}


def make_objectives(spec: StudySpec, task: Task, device: str, cache_limit: int = LIMIT) -> dict[str, Objective]:
    """The objective of each combination by name, whose "auto" options are chosen; they share statistics and caches."""
    combinations = make_combinations(Combination, spec, task, device)
    chosen = {name: decided(combination) for name, combination in combinations.items()}
    return as_objectives(spec, chosen, device, cache_limit)


def trained_objectives(
    spec: StudySpec, opened: OpenedTask, device: str, cache_limit: int = LIMIT
) -> dict[str, Objective]:
    """The objectives of a study that is ready to run; a missing baseline is trained first."""
    task = prepare(opened, device=device, train_baseline=False)
    for note in opened.notes:
        logger.info(f"data: {note}")
    for note in task.inspection.notes:
        logger.info(f"model: {note}")
    snapshots: list[Snapshot] = []
    if not task.trained:
        snapshots = train_watched_baseline(spec, watched_layers(spec, task), opened, device)
        task = prepare(opened, device=device)
    keep_baseline_spectra(spec, task, snapshots)
    return make_objectives(spec, task, device, cache_limit)


def refuse_misfits(combinations: Iterable[Combination]) -> None:
    """Refuse compressions, adapters and ranks that do not go together."""
    refusals = Refusals()
    for combination in combinations:
        # Damaged weights fail their combination alone, when its turn comes.
        with refusals.of(combination.name), contextlib.suppress(IntegrityError):
            refuse_costly_options(combination)
            for rank in combination.search.ranks:
                combination.facts(rank)
    refusals.raise_any()


def refuse_misfit_training(objectives: Mapping[str, Objective]) -> None:
    """Refuse augmentation, and blocks whose outputs a loss compares, that do not go with the images or the models."""
    refusals = Refusals()
    for name, objective in objectives.items():
        with refusals.of(name):
            _ = objective.bases.augmenter, objective.bases.lessons
    refusals.raise_any()
