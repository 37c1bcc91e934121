"""What a study is: its task, and what is needed to reproduce it, with the exported checkpoints."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.blocks import Block, Column, Folded, Paragraph, Section, Verbatim, facts, table
from pipeline.report.figures.labels import cell_columns, rank_word
from pipeline.results.combination_result import CombinationResult, by_study, latest_run
from pipeline.store.stored_study import joined
from pipeline.wording import as_written, listed, size

NAMES = {"parts": "images", "baseline": "baseline training"}
"""What some facts of a task are called on the page."""


def task_section(results: Sequence[CombinationResult]) -> Section:
    """Model, data, split and baseline of each study, and its combinations."""
    told = {study: _task(members[0]) for study, members in by_study(results).items()}
    first = next(iter(told.values()))
    same = all(other == first for other in told.values())
    columns = {
        "combination": Column[CombinationResult](lambda result: result.label, "text"),
        "compression": Column(lambda result: method_said(_chosen(result, "compression")), "long"),
        "adapter": Column(lambda result: method_said(_chosen(result, "adapter")), "long"),
        "targets": Column(lambda result: said_of(_chosen(result, "targets")), "long"),
        "compressed layers": Column(lambda result: str(result.facts.get("targets", ""))),
    }
    return Section(
        "task",
        "The task",
        [
            facts("Model, data and baseline", {"value": first} if same else told),
            table("The combinations; each is searched with every rank and init", columns, results),
            *(Paragraph(f"{result.label}: {note}.") for result in results for note in result.facts.get("notes", ())),
            *_tried(results),
        ],
    )


TRIED = {"tried": "options that are auto", "tried_inits": "init that is auto"}
"""What the candidates under a fact of a stored study were scored for."""
SCORED = (
    "What is auto was chosen before any training, by the mean KL divergence of a model's outputs to the uncompressed "
    "model's on training images, in nats. Options are scored by the compressed model without an adapter, inits by the "
    "compressed model with the adapter's start beside it, as the mean over ranks."
)


def _tried(results: Sequence[CombinationResult]) -> list[Block]:
    """The candidates that were scored for options and inits that are "auto"."""
    columns = {
        "options": Column[dict[str, Any]](lambda one: as_written(one["options"]), "long"),
        "divergence": Column(lambda one: f"{one['divergence']:.4g}"),
    }
    tables = [
        table(f"{result.label}: {said}; the first was taken", columns, json.loads(joined(result.facts, fact) or "[]"))
        for result in results
        for fact, said in TRIED.items()
        if fact in result.facts
    ]
    return [Paragraph(SCORED), *tables] if tables else []


def _task(result: CombinationResult) -> dict[str, str]:
    task = {name: value for name, value in result.facts.get("task", {}).items() if name != "trained"}
    task["baseline"] = task.get("baseline") or "none: the weights were loaded"
    return {NAMES.get(name, name): said_of(value) for name, value in task.items()}


def _chosen(result: CombinationResult, key: str) -> Any:
    return result.facts["pinned"]["combination"][key]


def method_said(method: Mapping[str, Any]) -> str:
    """``{"method": "int1", "scale": "row"}`` -> ``int1 (scale row)``."""
    options = {name: value for name, value in method.items() if name != "method"}
    return f"{method['method']} ({said_of(options)})" if options else str(method["method"])


def said_of(value: Any) -> str:
    """A JSON value as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {said_of(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(said_of, value))
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def reproduction_section(results: Sequence[CombinationResult]) -> Section:
    """Command, seeds, versions, hashes, device and file of each study, and the exported checkpoints."""
    studies = by_study(results)
    told = {study if len(studies) > 1 else "value": _told(members) for study, members in studies.items()}
    return Section(
        "reproduction",
        "Reproduction",
        [
            facts("Command, seeds, versions and hashes", told),
            *(_file(study, members[0]) for study, members in studies.items()),
            _checkpoints(results),
        ],
    )


def _told(results: Sequence[CombinationResult]) -> dict[str, str]:
    first = results[0]
    run = latest_run(results) or {}
    attributes = [trial.user_attrs for result in results for trial in result.trials()]
    seeds = {tested.seed for result in results for cell in result.cells for tested in cell.tested}
    peak = max((known.get("peak_memory") or 0 for known in attributes), default=0)
    versions = [known.get("versions", {}) for known in attributes]
    packages = dict.fromkeys(package for known in versions for package in known)
    return {
        "command": run.get("command", f"restora run {first.of}"),
        "latest run began": str(run.get("began", "")),
        "seed": str(first.facts["pinned"]["seed"]),
        "seeds of the tests": ", ".join(map(str, sorted(seeds))),
        "device": _listed(known.get("device") for known in attributes),
        "most memory of a trial": size(peak) if peak else "",
        **{f"version of {package}": _listed(known.get(package) for known in versions) for package in packages},
        **{f"sha256 of {name}": value for name, value in first.facts.get("hashes", {}).items()},
    }


def _listed(values: Iterable[str | None]) -> str:
    """The different values that are known."""
    known = list(dict.fromkeys(value for value in values if value is not None))
    return listed(known) if known else ""


def _file(study: str, result: CombinationResult) -> Block:
    """The study file, or the pinned values of a study that an older version ran."""
    text = joined(result.facts, "file")
    if text is not None:
        return Folded(f"The study file of {study}", [Verbatim(text)])
    lines = [f"{name} = {json.dumps(value)}" for name, value in result.facts["pinned"].items()]
    title = f"The pinned values of {study} (an older version did not store its file)"
    return Folded(title, [Verbatim("\n".join(lines))])


def _checkpoints(results: Sequence[CombinationResult]) -> Block:
    found = [(result, trial) for result in results for trial in result.trials() if "checkpoint" in trial.user_attrs]
    if not found:
        return Paragraph(f"No checkpoint has been exported; to export them: restora export {results[0].of}")
    return table(
        "Exported checkpoints; a later export may have replaced a file",
        {
            **cell_columns(rank_word(results), lambda row: (row[0], row[1].params["rank"], row[1].params["init"])),
            "trial": Column(lambda row: str(row[1].number)),
            "file": Column(lambda row: row[1].user_attrs["checkpoint"], "long"),
            "sha256": Column(lambda row: row[1].user_attrs.get("checkpoint_sha256", ""), "long"),
        },
        found,
    )
