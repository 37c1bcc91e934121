"""The task: the model, the data, and the combinations that are searched."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.blocks import Column, Section, facts, table
from pipeline.results.combination_result import CombinationResult, by_study

NAMES = {"parts": "images", "baseline": "baseline training"}
"""What some facts of a task are called on the page."""


def task_section(results: Sequence[CombinationResult]) -> Section:
    """Model, data, split and baseline of each study, and its combinations."""
    told = {study: _told(members[0]) for study, members in by_study(results).items()}
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
        ],
    )


def _told(result: CombinationResult) -> dict[str, str]:
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
