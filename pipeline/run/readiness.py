"""Whether a study can run, and what runs it: ``check``, ``plan``, ``run`` and ``export`` go by the same functions."""

from collections.abc import Iterable

from pipeline.compress.attention import arranged
from pipeline.compress.layer_statistics import Statistics
from pipeline.config.spec import StudySpec
from pipeline.errors import IntegrityError, SpecError
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective, make_features
from pipeline.run.snapshot import Snapshot
from pipeline.run.winner_spectra import keep_baseline_spectra, train_watched_baseline, watched_layers
from pipeline.task import Task, prepare
from pipeline.train.cache.feature_cache import FeatureCache

TARGETS_FIT = "targets and ranks fit"


def targets_fit(spec: StudySpec) -> tuple[str, bool, str]:
    """A line of ``check``: its name, whether every combination's targets exist and can take the ranks, and details."""
    try:
        task = prepare(spec.task, train_baseline=False)
        watched_layers(spec, task.model)
        combinations = make_combinations(spec, task, "cpu")
        refuse_misfits(combinations, cheaply=True)
    except SpecError as error:
        return TARGETS_FIT, False, str(error)
    counts = (f"{combination.name}: {len(combination.targets)} layers" for combination in combinations)
    return TARGETS_FIT, True, ", ".join(counts)


def make_combinations(spec: StudySpec, task: Task, device: str) -> list[Combination]:
    """The combinations of a study; they share the task's layer statistics."""
    arrangements = {combination.qkv for combination in spec.combination}
    statistics = {qkv: Statistics(arranged(task.model, qkv), task.train) for qkv in arrangements}
    return [
        Combination(task, each, spec.search, seed=spec.seed, device=device, statistics=statistics[each.qkv])
        for each in spec.combination
    ]


def make_objectives(
    spec: StudySpec, task: Task, device: str, features: FeatureCache | None = None
) -> dict[str, Objective]:
    """The objective of each combination by name; they share the task's layer statistics and caches.

    Args:
        spec: The study.
        task: Its task.
        device: Where to train.
        features: The caches of frozen layers; None for those of the study file's ``[compute]``.
    """
    features = features or make_features(spec.compute, device)
    combinations = make_combinations(spec, task, device)
    return {each.name: Objective.of(each, spec.compute, features) for each in combinations}


def trained_objectives(spec: StudySpec, device: str, features: FeatureCache) -> dict[str, Objective]:
    """The objectives of a study; a missing baseline is trained first, once targets and ranks are known to fit."""
    task = prepare(spec.task, device=device, train_baseline=False)
    watched_layers(spec, task.model)
    snapshots: list[Snapshot] = []
    if not task.trained:
        refuse_misfits(make_combinations(spec, task, device), cheaply=True)
        snapshots = train_watched_baseline(spec, device)
        task = prepare(spec.task, device=device)
    keep_baseline_spectra(spec, task, snapshots)
    return make_objectives(spec, task, device, features)


def refuse_misfits(combinations: Iterable[Combination], *, cheaply: bool = False) -> None:
    """Refuse compressions, adapters and ranks that do not go together.

    Args:
        combinations: The combinations of a study.
        cheaply: Skip compressions that train, or that need statistics of the layers.

    Raises:
        SpecError: The first misfit; its combination is named.
    """
    for combination in combinations:
        compression = combination.compression
        if cheaply and (compression.needs_statistics or compression.trains or combination.search.allocation):
            continue
        try:
            for rank in combination.search.ranks:
                combination.facts(rank)
        except IntegrityError:
            continue  # damaged weights fail their combination alone, when its turn comes
        except SpecError as error:
            raise SpecError(f"combination '{combination.name}': {error}") from None
