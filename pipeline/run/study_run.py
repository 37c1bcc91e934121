"""A whole study: each combination searched, its winners tested."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import optuna

from pipeline import paths
from pipeline.config.spec import StudySpec
from pipeline.config.study_file import pinned
from pipeline.environment import keep_freed_memory
from pipeline.errors import NothingUsableError
from pipeline.guard import StopTraining
from pipeline.locks import NoLocksError, exclusive
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass, measure_pass
from pipeline.run.failures import Failures, run_again
from pipeline.run.objectives import refuse_misfits, trained_objectives
from pipeline.run.readiness import Readiness
from pipeline.run.recorded_layers import record_layers
from pipeline.run.recorded_spectra import record_winners
from pipeline.run.study_facts import study_facts
from pipeline.run.winners import measure_references, score_winners
from pipeline.search.coordinator import Coordinator
from pipeline.search.events import Events
from pipeline.space import cells
from pipeline.store.database import Database, only_run, open_storage, storage_errors
from pipeline.store.kept_adapters import Kept
from pipeline.store.stored_study import create_or_resume, in_chunks, study_name
from pipeline.store.tally import tally_trials
from pipeline.train.cache.feature_cache import LIMIT
from pipeline.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a study is run; none of it changes what is searched.

    Args:
        command: The command that makes this run again, which the stored studies keep; by default ``restora run NAME``.
        file: The text of the study file, which the stored studies keep; None if there is none.
        device: Where to train.
        cohort: Trials trained in one pass; None measures how many are quickest.
        cache_limit: Bytes that the caches of frozen layers may take on disk.
    """

    command: str = ""
    file: str | None = None
    device: str = "cpu"
    cohort: int | None = None
    cache_limit: int = LIMIT


def run_study(
    spec: StudySpec, url: str | None = None, options: RunOptions | None = None, events: Events | None = None
) -> None:
    """Create or resume a study: search until every budget is met, then test the winners.

    Running it again is always safe: stored trials are not trained again.

    Args:
        spec: The study.
        url: SQLAlchemy URL of the database of the stored studies; None for ``RESTORA_STORAGE`` or
            ``storage/studies.db``.
        options: How it is run.
        events: Receives the progress of the run.

    Raises:
        StopTraining: The active guard stops the run; finished trials are stored.
        IntegrityError: The data of a new study fail a check, and nothing is run; or a combination cannot be compressed
            or started, or a winner cannot be tested, and the others are done all the same.
        StorageError: The database fails, or another run of the study goes on.
    """
    url, options, events = url or paths.default_database(), options or RunOptions(), events or Events()
    keep_freed_memory()
    with storage_errors(url):
        storage = open_storage(url)
        with only_run(storage, spec.name), _only_run_here(spec.name):
            objectives = _ready_objectives(Readiness(spec, url, options.device, storage=storage), options)
            run_again(lambda: _run(spec, storage, objectives, options, events))


def _ready_objectives(ready: Readiness, options: RunOptions) -> dict[str, Objective]:
    """The objectives, once every step before them is done; what only the steps need is freed."""
    ready.cache_limit = options.cache_limit
    ready.require()
    return trained_objectives(ready.settled, ready.opened, ready.device, options.cache_limit)


@contextmanager
def _only_run_here(study: str) -> Iterator[None]:
    """Refuse a second run of a study in this folder, on whatever database, if files can be locked here."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(paths.LOCKS / f"{study}.lock", f"study '{study}'"))
        except NoLocksError as error:
            logger.warning(f"{error}; this run goes on, because its database is locked: start no second one here")
        yield


def _run(
    spec: StudySpec, storage: Database, objectives: dict[str, Objective], options: RunOptions, events: Events
) -> None:
    refuse_misfits(objective.combination for objective in objectives.values())
    failures = Failures()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    studies, searched = dict[str, optuna.Study](), dict[str, Kept]()
    for name, objective in objectives.items():
        with failures.contained(f"'{name}'", f"{name}: failed"):
            studies[name] = _begin(spec, storage, objective, options, began)
    events.reached("begun")
    try:
        for name, study in studies.items():
            with failures.contained(f"'{name}'", f"{name}: failed"):
                searched[name] = _search(spec, study, objectives[name], options.cohort, events)
            events.reached("searched")
        for name, kept in searched.items():
            with failures.contained(f"'{name}'", f"{name}: failed"):
                score_winners(objectives[name], studies[name], kept, spec.seeds)
            with failures.contained(f"'{name}'", f"{name}: failed"):
                record_winners(spec, objectives[name], studies[name])
            with failures.contained(f"'{name}'", f"{name}: failed"):
                record_layers(objectives[name], studies[name], kept)
            objectives[name].bases.release()
            events.reached("tested")
        events.reached("ended")
    except StopTraining:
        events.reached("stopped")
        raise
    failures.raise_any("these combinations failed, the others are done")


def _begin(spec: StudySpec, storage: Database, objective: Objective, options: RunOptions, began: str) -> optuna.Study:
    """Create or resume the stored study of a combination; if trials are left, it notes this run."""
    combination = objective.combination
    facts = study_facts(spec, combination)
    if options.file is not None:
        facts |= in_chunks("file", options.file)
    name, hashes = study_name(spec.name, combination.name), dict(combination.task.hashes)
    study = create_or_resume(storage, name, pinned(spec, combination.spec), hashes, facts)
    tallies = tally_trials(study.get_trials(deepcopy=False))
    left = any(tallies[cell].left(combination.search.trials) for cell in cells(combination.search))
    if left or "run" not in study.user_attrs:
        done = sum(tally.done for tally in tallies.values())
        run = {"command": options.command or f"restora run {spec.name}", "began": began, "done": done}
        study.set_user_attr("run", run)
    return study


def _search(spec: StudySpec, study: optuna.Study, objective: Objective, cohort: int | None, events: Events) -> Kept:
    """Search one combination until its budgets are met; returns where its best adapters are kept."""
    name = objective.combination.name
    kept = Kept(spec.name, name, study.user_attrs["id"])
    measure_references(objective, study, "val")
    layers, bases = len(objective.combination.targets), objective.bases
    logger.info(f"{name}: {counted(layers, 'layer')} compressed; {bases.common.program.cut_in_words()}")
    for note in study.user_attrs["notes"]:
        logger.info(f"{name}: {note}")
    for base in bases.shared:  # caches are built here, before the search, so that they have all threads
        for part in bases.repeated:
            bases.rows(base, part)
    Coordinator(objective, study, kept, _pass(objective, study, cohort), events).run()
    bases.release()
    _refuse_without_result(study)
    return kept


def _refuse_without_result(study: optuna.Study) -> None:
    """Refuse a search in which no trial of any cell is complete."""
    tallies = tally_trials(study.get_trials(deepcopy=False)).values()
    if all(tally.best is None for tally in tallies):
        reasons = sum((tally.reasons for tally in tallies), Counter[str]())
        said = "; ".join(f"{count} failed: {reason}" for reason, count in reasons.most_common(3))
        raise NothingUsableError(
            f"no trial is complete ({said}); change search.lr, search.alpha or search.optimizer, and the study's name"
        )


def _pass(objective: Objective, study: optuna.Study, cohort: int | None) -> Pass:
    """How many lanes share a pass: as the user says, as this study did before on such a device, or as measured now.

    The stored study keeps the measured number, because the last digits of a trial may depend on its cohort.
    """
    stacks, device = objective.bases.common.program.stacks, objective.recipe.device
    if cohort is not None:
        return Pass(0, lanes=cohort if stacks else 1)
    known: dict[str, int] = study.user_attrs.get("images_a_pass", {})
    if device not in known:
        known = {**known, device: measure_pass(objective).images}
        study.set_user_attr("images_a_pass", known)
    size = Pass(known[device], lanes=None if stacks else 1)
    lanes = ", ".join(f"{size.most(batch)} of batch {batch}" for batch in objective.combination.search.batch_size)
    logger.info(f"{objective.combination.name}: trials in one pass: {lanes}")
    return size
