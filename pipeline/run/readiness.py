"""Whether a study can run: the steps from its file to its first trial, which `check`, `plan` and `run` share.

`check` carries out every step whose needs are met and lists what each found; `plan` and `run` stop at the first error.
Each step changes nothing: a run trains and stores only once all of them are done.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Literal

from pipeline.config.spec import StudySpec
from pipeline.config.study_file import as_begun
from pipeline.environment import torchvision_mismatch
from pipeline.errors import NothingUsableError, RestoraError
from pipeline.guard import StopTraining
from pipeline.objective.objective import Objective
from pipeline.objective.outline import Outline
from pipeline.run.objectives import as_objectives, make_combinations
from pipeline.run.readiness_steps import STEPS, Step
from pipeline.store.database import Database, open_storage, storage_errors
from pipeline.store.stored_study import study_name
from pipeline.task.contract import Task
from pipeline.task.data_check import Finding
from pipeline.task.opened_task import OpenedTask
from pipeline.task.prepare import prepare
from pipeline.train.cache.feature_cache import LIMIT


class Readiness:
    """A study on its way to its first trial: what its steps opened, each when first used.

    Args:
        spec: The study.
        url: SQLAlchemy URL of the database of the stored studies.
        device: Where to train.
        storage: The database, where the caller has opened it, to write to it.
        images: Whether every image is decoded: ``"all"`` and each fault is a finding, ``"once"`` before the first trial
            on such data, or ``"none"``.
    """

    def __init__(
        self,
        spec: StudySpec,
        url: str,
        device: str,
        *,
        storage: Database | None = None,
        images: Literal["all", "once", "none"] = "once",
    ) -> None:
        self.spec, self.url, self.device, self.images = spec, url, device, images
        self.opened = OpenedTask(spec.task)
        self.cache_limit = LIMIT  # bytes that the caches of frozen layers may take on disk
        self._given = storage

    @cached_property
    def storage(self) -> Database | None:
        """The database of the stored studies; None if it does not exist yet."""
        try:
            return self._given or open_storage(self.url, "read")
        except NothingUsableError:
            return None

    @cached_property
    def stored(self) -> dict[str, int]:
        """The ids of the stored studies of the combinations, by combination."""
        known = self.storage.names() if self.storage else {}
        names = {one.name: study_name(self.spec.name, one.name) for one in self.spec.combination}
        return {combination: known[name] for combination, name in names.items() if name in known}

    @cached_property
    def known(self) -> dict[str, dict[str, Any]]:
        """The attributes of the stored studies, by combination."""
        return {name: self.storage.get_study_user_attrs(key) for name, key in self.stored.items() if self.storage}

    @cached_property
    def settled(self) -> StudySpec:
        """The study, with the "auto" options of its stored combinations as they were chosen."""
        return as_begun(self.spec, {name: known["pinned"] for name, known in self.known.items() if "pinned" in known})

    @property
    def opened_here(self) -> bool:
        """Whether the database was not given by the caller, who writes to it."""
        return self._given is None

    @property
    def begun(self) -> bool:
        """Whether the study has trials."""
        return self.storage is not None and any(map(self.storage.get_n_trials, self.stored.values()))

    @cached_property
    def task(self) -> Task:
        """The task; its baseline is untrained if it has to be trained first."""
        return prepare(self.opened, device=self.device, train_baseline=False)

    @cached_property
    def outlines(self) -> dict[str, Outline]:
        """The combinations by name, as far as shapes decide."""
        return make_combinations(Outline, self.settled, self.task, self.device)

    @cached_property
    def outlined(self) -> dict[str, Objective]:
        """The objectives of the outlines."""
        return as_objectives(self.spec, self.outlines, self.device)

    def steps(self, *, writing: bool = True) -> Iterator[Finding]:
        """Carry out each step whose needs are met; a failed one gives a finding with its error, never an exception."""
        failed = set[str]()
        for step in (step for step in STEPS if writing or not step.writes):
            if failed.isdisjoint(step.needs):
                for finding in findings(step.what, step.kind, functools.partial(self._take, step)):
                    failed |= set() if finding.ok else {step.what}
                    yield finding
            else:
                failed.add(step.what)

    def _take(self, step: Step) -> str | Iterable[Finding]:
        with storage_errors(self.url):
            return step.take(self)

    def require(self, *, writing: bool = True) -> None:
        """Carry out the steps, and raise the first error; without ``writing`` nothing has to be writable."""
        for finding in self.steps(writing=writing):
            if finding.error is not None:
                raise finding.error


def findings(what: str, kind: type[RestoraError], take: Callable[[], str | Iterable[Finding]]) -> Iterator[Finding]:
    """What a step found. An error of it is its last finding; an unexpected exception becomes an error of ``kind``."""
    try:
        found = take()
        yield from [Finding(what, True, found)] if isinstance(found, str) else found
    except StopTraining:
        raise
    except RestoraError as error:
        yield Finding(what, False, str(error), error)
    except Exception as error:
        mismatch, said = torchvision_mismatch(error), f"{type(error).__name__}: {error}"
        unexpected = mismatch or kind(f"{what}: {said}; restora --debug shows where")
        unexpected.__cause__ = error
        yield Finding(what, False, str(mismatch or said), unexpected)
