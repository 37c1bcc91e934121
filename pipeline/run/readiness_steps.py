"""The steps from a study's file to its first trial: what each claims, and how it is carried out."""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from pipeline.config.study_file import pinned
from pipeline.environment import choose_device, physical_memory, versions
from pipeline.errors import IntegrityError, RestoraError, SpecError, StorageError, UsageError
from pipeline.locks import is_run, refuse_unusable
from pipeline.paths import LOCKS, STORAGE, existing
from pipeline.run.estimate import plan_cache, preparation_bytes
from pipeline.run.objectives import refuse_misfit_training, refuse_misfits
from pipeline.run.recorded_spectra import watched_layers
from pipeline.search.budget import search_notes
from pipeline.store.database import without_password
from pipeline.store.sqlite_database import sqlite_file
from pipeline.store.stored_study import refuse_to_resume, study_name
from pipeline.task.baseline import try_baseline
from pipeline.task.data_check import Finding, check_images, refuse_bad_data
from pipeline.wording import counted, listed, readable_bytes

if TYPE_CHECKING:
    from pipeline.run.readiness import Readiness


def _find_device(ready: "Readiness") -> str:
    asked, ready.device = ready.device, "cpu"  # that of the other steps, if the one that is asked for is not there
    ready.device = choose_device(asked)
    return f"{ready.device}, " + ", ".join(f"{name} {number}" for name, number in versions().items())


def _find_database(ready: "Readiness") -> str:
    storage, shown, url = ready.storage, without_password(ready.url), make_url(ready.url)
    if url.get_backend_name() == "sqlite" and sqlite_file(url) is None:
        raise StorageError(f"{shown} is in memory and gone when a run ends; name a file: sqlite:///storage/studies.db")
    if storage is None:
        return f"{shown}, will be created"
    if ready.opened_here and is_run(ready.url, ready.spec.name):
        raise StorageError(f"study '{ready.spec.name}' is being run on this database; wait for it, or stop it")
    return f"{shown}, {'resumes' if ready.begun else 'holds no trial of'} this study"


def _find_writable(ready: "Readiness") -> str:
    refuse_unusable(LOCKS, locks=False)
    if file := sqlite_file(make_url(ready.url)):
        refuse_unusable(file, locks=True)
        if file.exists() and not os.access(file, os.W_OK):
            raise StorageError(f"{file} is read-only for you; change its rights, or name another database by --storage")
    return f"below {STORAGE.absolute().parent}"


def _find_data(ready: "Readiness") -> str:
    images, names = ready.opened.images, {"train": "training images", "val": "of validation", "test": "of test"}
    said = [f"{len(items)} {names[part]}" for part, items in images.parts().items()]
    divided = {part: len(indices) for part, (_, indices) in ready.opened.divided.items(images).items()}
    parts = [f"{count} {part}" for part, count in divided.items()]
    found = ", ".join([*said, f"{len(images.classes)} classes"])
    return "\n".join([f"{found}; split into {listed(parts)}", *ready.opened.notes])


def _load_model(ready: "Readiness") -> str:
    size = sum(parameter.numel() for parameter in ready.opened.model.parameters())
    return f"{size} parameters, " + ("with weights" if ready.spec.task.model.pretrained else "to be trained")


def _fit_images(ready: "Readiness") -> str:
    return " x ".join(map(str, ready.opened.input_shape))


def _check_data(ready: "Readiness") -> Iterator[Finding]:
    if ready.images == "once":
        refuse_bad_data(ready.spec.task, ready.opened.images, ready.opened.hashes, begun=ready.begun)
    for finding in check_images(ready.spec.task, ready.opened.images) if ready.images == "all" else ():
        if finding.ok or ready.begun:
            said = finding.said if finding.ok else f"the study goes on, a new one would be refused: {finding.said}"
            yield Finding(finding.what, True, said)
        else:
            yield finding._replace(error=IntegrityError(f"{finding.what}: {finding.said}"))


def _try_baseline(ready: "Readiness") -> str:
    return try_baseline(ready.opened, ready.device)


def _fit_combinations(ready: "Readiness") -> str:
    watched_layers(ready.spec, ready.task)
    refuse_misfits(ready.outlines.values())
    refuse_misfit_training(ready.outlined)
    targets = ", ".join(f"{name}: {counted(len(outline.targets), 'layer')}" for name, outline in ready.outlines.items())
    return "\n".join([targets, *ready.task.inspection.notes])


def _note_search(ready: "Readiness") -> str:
    search, notes = ready.spec.search, defaultdict[str, list[str]](list)
    for one in ready.spec.combination:
        for note in search_notes(search, one.adapter):
            notes[note].append(one.name)
    said = [f"{', '.join(names)}: {note}" for note, names in notes.items()]
    return "\n".join(said) or f"{search.trials} trials of {search.epochs} epochs in each cell"


def _compare_stored(ready: "Readiness") -> str:
    for name, outline in ready.outlines.items():
        if ready.storage is not None and name in ready.stored:
            settings, facts = pinned(ready.spec, outline.spec), {"targets": len(outline.targets)}
            stored = study_name(ready.spec.name, name)
            refuse_to_resume(ready.storage, stored, settings, dict(ready.task.hashes), facts)
    return f"{len(ready.stored)} of {len(ready.outlines)} combinations are stored"


def _fit_machine(ready: "Readiness") -> str:
    """Memory is refused if this machine has less in all, disk if less is free; both can be told only roughly."""
    memory, there = preparation_bytes(ready.outlines.values()), physical_memory()
    if memory > there:
        raise SpecError(
            f"statistics and decompositions of the layers take about {readable_bytes(memory)} of memory, and this "
            f"machine has {readable_bytes(there)}; choose fewer or smaller targets, or inits and compressions that "
            f"need no statistics"
        )
    counted = set[str]()
    disk = sum(plan_cache(objective, counted)["missing_bytes"] for objective in ready.outlined.values())
    free = shutil.disk_usage(existing(STORAGE.resolve())).free
    if free < disk <= ready.cache_limit:
        raise StorageError(
            f"the caches of the frozen layers take {readable_bytes(disk)} in {STORAGE}, and {readable_bytes(free)} are "
            f'free; make room, lower --cache-limit, or set compute.cache = "off"'
        )
    return f"{readable_bytes(memory)} of memory for statistics and decompositions, {readable_bytes(disk)} of disk"


@dataclass(frozen=True)
class Step:
    """One step: what it claims, what any unexpected exception of it becomes, and the steps that it needs."""

    what: str
    kind: type[RestoraError]
    take: Callable[["Readiness"], str | Iterable[Finding]]
    needs: tuple[str, ...] = ()
    writes: bool = False
    """Whether only a run needs it, since a plan writes nothing."""


STEPS = (
    Step("device is there", UsageError, _find_device),
    Step("database is usable", StorageError, _find_database),
    Step("files can be written", StorageError, _find_writable, ("database is usable",), writes=True),
    Step("data found", IntegrityError, _find_data),
    Step("model loads", SpecError, _load_model, ("data found",)),
    Step("images fit the model", SpecError, _fit_images, ("model loads",)),
    Step("data is sound", IntegrityError, _check_data, ("data found", "database is usable")),
    Step("baseline trains", SpecError, _try_baseline, ("device is there", "images fit the model", "data is sound")),
    Step("targets and ranks fit", SpecError, _fit_combinations, ("images fit the model", "data is sound")),
    Step("search can begin", SpecError, _note_search),
    Step("stored study is the same", SpecError, _compare_stored, ("targets and ranks fit",)),
    Step("memory and disk suffice", StorageError, _fit_machine, ("device is there", "targets and ranks fit")),
)
"""The steps in the order of a run."""
