"""Restora: compress a trained vision model, and win the lost accuracy back with low-rank adapters.

``Task`` takes a module and data sets of your own; ``Objective`` is one combination as an Optuna objective; ``save``
writes a trial's checkpoint, and ``load`` gives its module back. They import torch when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.export.checkpoint import load
    from pipeline.export.trials import save
    from pipeline.search.objective import Objective
    from pipeline.spec import CombinationSpec, SearchSpec, StudySpec
    from pipeline.study_file import load_spec
    from pipeline.task import Task, prepare

__all__ = ["CombinationSpec", "Objective", "SearchSpec", "StudySpec", "Task", "load", "load_spec", "prepare", "save"]

_HOMES = {
    "CombinationSpec": "pipeline.spec",
    "Objective": "pipeline.search.objective",
    "SearchSpec": "pipeline.spec",
    "StudySpec": "pipeline.spec",
    "Task": "pipeline.task",
    "load": "pipeline.export.checkpoint",
    "load_spec": "pipeline.study_file",
    "prepare": "pipeline.task",
    "save": "pipeline.export.trials",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
