"""What is needed to reproduce the study, and the exported checkpoints."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.report.blocks import Block, Column, Folded, Paragraph, Section, Verbatim, facts, table
from pipeline.report.figures.labels import rank_word
from pipeline.results.combination_result import CombinationResult, latest_run
from pipeline.store.long_text import joined
from pipeline.wording import NOTHING, init_name, listed, rank_value, size


def reproduction_section(results: Sequence[CombinationResult]) -> Section:
    """Command, seeds, versions, hashes, device and file of each study, and the exported checkpoints."""
    studies = {study: [result for result in results if result.of == study] for study in _studies(results)}
    told = {study: _told(members) for study, members in studies.items()}
    names = dict.fromkeys(name for table in told.values() for name in table)
    said = {name: [table.get(name, "") for table in told.values()] for name in names}
    return Section(
        "reproduction",
        "Reproduction",
        [
            facts("Command, seeds, versions and hashes", said, list(studies) if len(studies) > 1 else ["value"]),
            *(_file(study, members[0]) for study, members in studies.items()),
            _checkpoints(results),
        ],
    )


def _studies(results: Sequence[CombinationResult]) -> list[str]:
    return list(dict.fromkeys(result.of for result in results))


def _told(results: Sequence[CombinationResult]) -> dict[str, str]:
    first = results[0]
    run = latest_run(results) or {}
    trials = [trial for result in results for trial in result.trials()]
    seeds = {tested.seed for result in results for cell in result.cells for tested in cell.tested}
    peak = max((trial.user_attrs.get("peak_memory") or 0 for trial in trials), default=0)
    return {
        "command": run.get("command", f"restora run {first.of}"),
        "latest run began": str(run.get("began", "")),
        "seed": str(first.facts["pinned"]["seed"]),
        "seeds of the tests": ", ".join(map(str, sorted(seeds))),
        "device": listed_of(_known(trials, "device")),
        "most memory of a trial": size(peak) if peak else "",
        **{f"version of {package}": listed_of(found) for package, found in _versions(trials).items()},
        **{f"sha256 of {name}": value for name, value in first.facts.get("hashes", {}).items()},
    }


def listed_of(names: Iterable[str]) -> str:
    names = list(names)
    return listed(names) if names else ""


def _known(trials: Sequence[FrozenTrial], key: str) -> list[str]:
    found = (trial.user_attrs.get(key) for trial in trials)
    return list(dict.fromkeys(str(value) for value in found if value is not None))


def _versions(trials: Sequence[FrozenTrial]) -> dict[str, dict[str, None]]:
    """The versions of each package with which the trials were trained."""
    seen: dict[str, dict[str, None]] = {}
    for trial in trials:
        for package, version in trial.user_attrs.get("versions", {}).items():
            seen.setdefault(package, {})[version] = None
    return seen


def _file(study: str, result: CombinationResult) -> Block:
    """The study file, or the pinned values of a study that an older version ran."""
    text = joined(result.facts, "file")
    if text is not None:
        return Folded(f"The study file of {study}", [Verbatim(text)])
    pinned: dict[str, Any] = result.facts["pinned"]
    lines = [f"{name} = {json.dumps(value)}" for name, value in pinned.items()]
    title = f"The pinned values of {study} (an older version did not store its file)"
    return Folded(title, [Verbatim("\n".join(lines))])


def _checkpoints(results: Sequence[CombinationResult]) -> Block:
    found = [(result, *exported) for result in results for exported in _exported(result)]
    if not found:
        study = " ".join(_studies(results)[:1])
        return Paragraph(f"No checkpoint has been exported; to export them: restora export {study}")
    columns: dict[str, Column[tuple[CombinationResult, FrozenTrial, str, str]]] = {
        "combination": Column("text", lambda row: row[0].label),
        rank_word(results): Column("number", lambda row: rank_value(row[1].params["rank"], row[0].budget_unit)),
        "init": Column("text", lambda row: init_name(row[1].params["init"], NOTHING)),
        "trial": Column("number", lambda row: str(row[1].number)),
        "file": Column("long", lambda row: row[2]),
        "sha256": Column("long", lambda row: row[3]),
    }
    return table("Exported checkpoints; a later export may have replaced a file", columns, found)


def _exported(result: CombinationResult) -> Iterator[tuple[FrozenTrial, str, str]]:
    for trial in result.trials():
        if "checkpoint" in trial.user_attrs:
            yield trial, trial.user_attrs["checkpoint"], trial.user_attrs.get("checkpoint_sha256", "")
