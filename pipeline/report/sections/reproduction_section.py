"""What is needed to reproduce the study, and the exported checkpoints."""

import json
from collections.abc import Iterable, Sequence

from pipeline.report.blocks import Block, Column, Folded, Paragraph, Section, Verbatim, facts, table
from pipeline.report.figures.labels import cell_columns, rank_word
from pipeline.results.combination_result import CombinationResult, by_study, latest_run
from pipeline.store.stored_study import joined
from pipeline.wording import listed, size


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
