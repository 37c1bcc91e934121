"""Whether a study can run, and what runs it: ``check``, ``plan``, ``run`` and ``export`` go by the same functions."""

from collections.abc import Iterable

from pipeline.compress.attention import with_plain_attention
from pipeline.compress.contract import TrainingCompression
from pipeline.compress.layer_statistics import Statistics
from pipeline.config.spec import StudySpec
from pipeline.errors import IntegrityError, SpecError
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective, make_features
from pipeline.run.recorded_spectra import Snapshot, keep_baseline_spectra, train_watched_baseline, watched_layers
from pipeline.task.contract import Task
from pipeline.task.data_check import Finding, check_task, refuse_bad_data
from pipeline.task.prepare import prepare
from pipeline.train.cache.feature_cache import LIMIT

TARGETS_FIT = "targets and ranks fit"


def check_study(spec: StudySpec) -> list[Finding]:
    """Check data, weights, targets and ranks of a study; targets and ranks only if the data and weights are sound."""
    findings = list(check_task(spec.task))
    if not all(finding.ok for finding in findings):
        return findings
    try:
        task = prepare(spec.task, train_baseline=False)
        watched_layers(spec, task.model)
        combinations = make_combinations(spec, task, "cpu")
        refuse_misfits(combinations, cheaply=True)
    except SpecError as error:
        return [*findings, Finding(TARGETS_FIT, False, str(error))]
    counts = (f"{combination.name}: {len(combination.targets)} layers" for combination in combinations)
    return [*findings, Finding(TARGETS_FIT, True, ", ".join(counts))]


def make_combinations(spec: StudySpec, task: Task, device: str) -> list[Combination]:
    """The combinations of a study; they share the task's layer statistics."""
    arrangements = {combination.qkv for combination in spec.combination}
    statistics = {qkv: Statistics(with_plain_attention(task.model, qkv), task.train) for qkv in arrangements}
    return [
        Combination(task, table, spec.search, seed=spec.seed, device=device, statistics=statistics[table.qkv])
        for table in spec.combination
    ]


def make_objectives(spec: StudySpec, task: Task, device: str, cache_limit: int = LIMIT) -> dict[str, Objective]:
    """The objective of each combination by name; they share the task's layer statistics and caches."""
    features, combinations = make_features(spec.compute, device, cache_limit), make_combinations(spec, task, device)
    return {one.name: Objective.of(one, spec.compute, features) for one in combinations}


def trained_objectives(
    spec: StudySpec, device: str, cache_limit: int = LIMIT, *, begun: bool = False
) -> dict[str, Objective]:
    """The objectives of a study; a missing baseline is trained first, once data, targets and ranks are checked.

    A study that has ``begun``, so that it has trials, goes on even if its data fail a check (``refuse_bad_data``).
    """
    task = prepare(spec.task, device=device, train_baseline=False)
    watched_layers(spec, task.model)
    refuse_bad_data(spec.task, task.hashes, begun=begun)
    snapshots: list[Snapshot] = []
    if not task.trained:
        refuse_misfits(make_combinations(spec, task, device), cheaply=True)
        snapshots = train_watched_baseline(spec, device)
        task = prepare(spec.task, device=device)
    keep_baseline_spectra(spec, task, snapshots)
    return make_objectives(spec, task, device, cache_limit)


def refuse_misfits(combinations: Iterable[Combination], *, cheaply: bool = False) -> None:
    """Refuse the first compression, adapter and rank that do not go together.

    ``cheaply`` skips compressions that train, or that need statistics of the layers.
    """
    for combination in combinations:
        compression = combination.compression
        costly = compression.needs_statistics or isinstance(compression, TrainingCompression)
        if cheaply and (costly or combination.search.allocation):
            continue
        try:
            for rank in combination.search.ranks:
                combination.facts(rank)
        except IntegrityError:
            continue  # damaged weights fail their combination alone, when its turn comes
        except SpecError as error:
            raise SpecError(f"combination '{combination.name}': {error}") from None
