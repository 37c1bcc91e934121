"""A study as a table, with values in other places, and as the text of a study file."""

import copy
import json
from typing import Any

from pipeline.config.spec import StudySpec

TABLE: dict[str, Any] = {
    "name": "study",
    "task": {
        "model": {"source": "mlp", "widths": [784, 32, 10]},
        "data": {"source": "mnist"},
        "split": {"val": 0.2},
        "baseline": {"epochs": 2},
    },
    "combination": [
        {"name": "one", "compression": {"method": "int1", "metric": "activation"}, "adapter": "lora"},
        {"name": "two", "compression": "sparse", "adapter": {"method": "lora"}, "targets": ["fc1", "fc2"]},
    ],
    "search": {
        "ranks": [1, 8],
        "inits": ["svd", {"method": "paper", "sigma": 0.1}],
        "alpha": 8,
        "optimizer": ["adam", "sgd"],
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": [32],
        "epochs": 3,
        "trials": 9,
    },
}


def table(**changes: Any) -> dict[str, Any]:
    """The study above, with values in other places: ``search__lr=0`` sets ``search.lr``."""
    changed = copy.deepcopy(TABLE)
    for path, value in changes.items():
        *parents, key = path.split("__")
        inner = changed
        for parent in parents:
            inner = inner[int(parent) if parent.isdigit() else parent]
        inner[key] = value
    return changed


def toml(value: Any) -> str:
    """A JSON-able value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def as_toml(spec: StudySpec) -> str:
    return "\n".join(f"{key} = {toml(value)}" for key, value in spec.model_dump(mode="json", exclude_none=True).items())
