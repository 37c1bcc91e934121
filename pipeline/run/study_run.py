"""A whole study: each combination searched, its winners tested."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna

from pipeline import paths
from pipeline.cell import stored_cells
from pipeline.compress.attention import arranged
from pipeline.compress.contract import Compression
from pipeline.compress.layer_statistics import Statistics
from pipeline.config.spec import StudySpec
from pipeline.config.study_file import pinned
from pipeline.environment import keep_freed_memory
from pipeline.errors import IntegrityError, SpecError
from pipeline.guard import StopTraining
from pipeline.locks import exclusive
from pipeline.objective.objective import Objective, make_features
from pipeline.objective.passes import Pass, measure_pass
from pipeline.run.snapshot import Snapshot
from pipeline.run.winner_spectra import keep_baseline_spectra, record_winners, train_watched_baseline, watched_layers
from pipeline.run.winners import measure_references, score_winners
from pipeline.search.coordinator import Coordinator
from pipeline.search.events import Events
from pipeline.space import cells, fitted
from pipeline.store.database import Database, only_run
from pipeline.store.kept_adapters import Kept
from pipeline.store.long_text import in_pieces
from pipeline.store.stored_study import create_or_resume, study_name
from pipeline.store.tally import tally_trials
from pipeline.task import Task, prepare
from pipeline.train.cache.feature_cache import LIMIT, FeatureCache
from pipeline.train.cut.program import Program

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a study is run; none of it changes what is searched.

    Args:
        command: The command that makes this run again; the stored studies keep it.
        file: The text of the study file, which the stored studies keep; None if there is none.
        device: Where to train.
        cohort: Trials trained in one pass; None measures how many are quickest.
        cache_limit: Bytes that the caches of frozen layers may take on disk.
    """

    command: str
    file: str | None = None
    device: str = "cpu"
    cohort: int | None = None
    cache_limit: int = LIMIT


def run_study(spec: StudySpec, storage: Database, options: RunOptions, events: Events | None = None) -> None:
    """Create or resume a study: search until every budget is met, then test the winners. Running it again is right.

    Args:
        spec: The study.
        storage: The database of the stored studies.
        options: How it is run.
        events: Receives the progress of the run.

    Raises:
        StopTraining: The active guard stops the run; finished trials are stored.
        IntegrityError: A combination cannot be compressed or started; the others are run all the same.
    """
    events = events or Events()
    keep_freed_memory()
    with exclusive(paths.LOCKS / f"{spec.name}.lock", f"study '{spec.name}'"), only_run(storage, spec.name):
        features = make_features(spec.compute, options.device, options.cache_limit)
        objectives = trained_objectives(spec, options.device, features)
        refuse_misfits(objectives)
        failed: dict[str, IntegrityError] = {}
        began = datetime.now(UTC).isoformat(timespec="seconds")
        studies, searched = dict[str, optuna.Study](), dict[str, Kept]()
        for name, objective in objectives.items():
            with _failing_alone(name, failed):
                studies[name] = _begin(spec, storage, objective, options, began)
        events.reached("begun")
        try:
            for name, study in studies.items():
                with _failing_alone(name, failed):
                    searched[name] = _search(spec, study, objectives[name], options.cohort, events)
                events.reached("searched")
            for name, kept in searched.items():
                score_winners(objectives[name], studies[name], kept, spec.seeds)
                record_winners(spec, objectives[name], studies[name])
                objectives[name].release()
                events.reached("tested")
            events.reached("ended")
        except StopTraining:
            events.reached("stopped")
            raise
        if failed:
            said = "; ".join(f"'{name}': {error}" for name, error in failed.items())
            raise IntegrityError(f"these combinations failed, the others are done: {said}")


@contextmanager
def _failing_alone(name: str, failed: dict[str, IntegrityError]) -> Iterator[None]:
    """Note a combination that fails, and go on with the others."""
    try:
        yield
    except IntegrityError as error:
        failed[name] = error
        logger.error(f"{name}: failed: {error}")


def trained_objectives(spec: StudySpec, device: str, features: FeatureCache) -> dict[str, Objective]:
    """The objectives of a study whose baseline is trained, now if it has to be, and its spectra kept."""
    task = prepare(spec.task, device=device, train_baseline=False)
    objectives = make_objectives(spec, task, device, features)
    watched_layers(spec, task.model)
    snapshots: list[Snapshot] = []
    if not task.trained:  # only now, for targets, ranks and watched layers are known to fit
        refuse_misfits(objectives, cheaply=True)
        snapshots = train_watched_baseline(spec, device)
        task = prepare(spec.task, device=device)
        objectives = make_objectives(spec, task, device, features)
    keep_baseline_spectra(spec, task, snapshots)
    return objectives


def refuse_misfits(objectives: Mapping[str, Objective], *, cheaply: bool = False) -> None:
    """Refuse a study whose compressions, adapters and ranks do not go together, before its first trial.

    Args:
        objectives: The objective of each combination.
        cheaply: Pass over compressions that train, or need statistics of the layers.

    Raises:
        SpecError: The first that does not fit; its combination is named.
    """
    for name, objective in objectives.items():
        compression: Compression = objective.combination.compression
        if cheaply and (compression.needs_statistics or compression.trains or objective.search.allocation):
            continue
        try:
            for rank in objective.search.ranks:
                objective.facts(rank)
        except IntegrityError:
            continue  # damaged weights fail their combination alone, when its turn comes
        except SpecError as error:
            raise SpecError(f"combination '{name}': {error}") from None


def _begin(spec: StudySpec, storage: Database, objective: Objective, options: RunOptions, began: str) -> optuna.Study:
    """The stored study of a combination, created or resumed, which says what runs it where anything is left to run."""
    facts = study_facts(spec, objective)
    study = create_or_resume(
        storage,
        study_name(spec.name, objective.combination.name),
        pinned(spec, objective.combination),
        dict(objective.task.hashes),
        {**facts, **(in_pieces("file", options.file) if options.file is not None else {})},
    )
    tallies, budget = tally_trials(study.get_trials(deepcopy=False)), facts["budget"]
    done = sum(tally.done for tally in tallies.values())
    if any(tallies[cell].left(budget) for cell in stored_cells(study.user_attrs)) or "run" not in study.user_attrs:
        study.set_user_attr("run", {"command": options.command, "began": began, "done": done})
    return study


def _search(spec: StudySpec, study: optuna.Study, objective: Objective, cohort: int | None, events: Events) -> Kept:
    """Search one combination until its budgets are met; returns where its best adapters are kept."""
    name = objective.combination.name
    kept = Kept(spec.name, name, study.user_attrs["id"])
    measure_references(objective, study, ["val"])
    logger.info(f"{name}: {len(objective.targets)} layers compressed; {said_of(objective.common.program)}")
    for base in objective.bases:  # before anything is asked, and with all threads: caches may have to be built
        for part in ("train", "val"):
            objective.lessons(base, part)
    Coordinator(objective, study, kept, _pass(objective, study, cohort), events).run()
    objective.release()
    return kept


def _pass(objective: Objective, study: optuna.Study, cohort: int | None) -> Pass:
    """What one pass holds: as the user says, as this study did before on such a device, or as measured now.

    The stored study remembers, because the last digits of a trial may depend on its company.
    """
    stacks, device = objective.common.program.stacks, objective.recipe.device
    if cohort is not None:
        return Pass(0, lanes=cohort, stacks=stacks)
    known: dict[str, int] = study.user_attrs.get("images_a_pass", {})
    if device not in known:
        known = {**known, device: measure_pass(objective).images}
        study.set_user_attr("images_a_pass", known)
    size = Pass(known[device], stacks=stacks)
    lanes = ", ".join(f"{size.most(batch)} of batch {batch}" for batch in objective.search.batch_size)
    logger.info(f"{objective.combination.name}: trials in one pass: {lanes}")
    return size


def said_of(program: Program) -> str:
    """Where a model was cut, in words."""
    if not program.adapter.trains:
        return "nothing is trained, so the compressed model is judged once"
    if program.cut is None:
        alone = "" if program.stacks else ", and trials are trained one at a time: lanes of one batch would mix"
        return f"every image takes the whole model in every epoch: {program.why}{alone}"
    if program.cut.stem is None:
        return "no frozen layer comes before the first trained one, so nothing is cached on disk"
    return f"frozen layers run once, their outputs ({', '.join(program.cut.names)}) are cached on disk"


def make_objectives(
    spec: StudySpec, task: Task, device: str, features: FeatureCache | None = None
) -> dict[str, Objective]:
    """The objective of each combination by name; they share the task's layer statistics and caches."""
    arrangements = {combination.qkv for combination in spec.combination}
    statistics = {qkv: Statistics(arranged(task.model, qkv), task.train) for qkv in arrangements}
    features = features or make_features(spec.compute, device)
    return {
        combination.name: Objective(
            task,
            combination,
            spec.search,
            spec.compute,
            seed=spec.seed,
            device=device,
            statistics=statistics[combination.qkv],
            features=features,
        )
        for combination in spec.combination
    }


def study_facts(spec: StudySpec, objective: Objective) -> dict[str, Any]:
    """What the stored study says of itself beside its trials."""
    search = fitted(spec.search, objective.adapter)
    return {
        "study": spec.name,
        "combination": objective.combination.name,
        "budget": search.trials,
        "cells": [[cell.rank, cell.init] for cell in cells(search)],
        "task": dict(objective.task.description),
        "targets": len(objective.targets),
        "dense_bytes": objective.compressed_size.dense_bytes,
        "compressed_bytes": objective.compressed_size.bytes,
        "dense_macs": objective.facts(search.ranks[0]).dense_macs,
        "spectra": watched_layers(spec, objective.task.model),
        **in_pieces("layers", json.dumps(layer_bytes(objective))),
    }


def layer_bytes(objective: Objective) -> list[dict[str, Any]]:
    """Bytes of each compressed layer: dense with its bias, what the compressed one holds, and what each rank adds."""
    ranked = {rank: objective.facts(rank).size.layers for rank in objective.search.ranks}
    return [
        {
            "name": name,
            "dense": (size.dense + size.bias) // 8,
            **{kind: getattr(size.base, kind) // 8 for kind in ("payload", "index", "scale", "bias")},
            "adapter": {str(rank): (layers[name].bits() - size.bits()) // 8 for rank, layers in ranked.items()},
        }
        for name, size in objective.compressed_size.layers.items()
    ]
