"""Restora: compress a trained vision model, and win the lost accuracy back with low-rank adapters.

``Task`` takes a module and data sets of your own; ``Objective`` is one combination as an Optuna objective; ``save``
writes a trial's checkpoint, and ``load`` gives its module back. They import torch when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.spec import CombinationSpec, SearchSpec, StudySpec
    from pipeline.config.study_file import load_spec
    from pipeline.export.checkpoint import load
    from pipeline.export.selection import save
    from pipeline.objective.objective import Objective
    from pipeline.task import Task, prepare

__all__ = ["CombinationSpec", "Objective", "SearchSpec", "StudySpec", "Task", "load", "load_spec", "prepare", "save"]

_HOMES = {
    "CombinationSpec": "pipeline.config.spec",
    "Objective": "pipeline.objective.objective",
    "SearchSpec": "pipeline.config.spec",
    "StudySpec": "pipeline.config.spec",
    "Task": "pipeline.task",
    "load": "pipeline.export.checkpoint",
    "load_spec": "pipeline.config.study_file",
    "prepare": "pipeline.task",
    "save": "pipeline.export.selection",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
