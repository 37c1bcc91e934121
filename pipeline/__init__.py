"""Restora: compress a trained vision model, and restore its accuracy with LoRA adapters and trained codes.

``Task`` takes a module and data sets of your own; ``Objective`` is one combination as an Optuna objective;
``run_study`` does what ``restora run`` does, and ``export_study`` what ``restora export`` does; ``save`` writes a
trial's checkpoint, and ``load`` gives its module back.
Each name is imported, and torch with it, at its first use.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the one list of public names: `__getattr__` reads it too
    from pipeline.config.combination_spec import CombinationSpec as CombinationSpec
    from pipeline.config.search_spec import SearchSpec as SearchSpec
    from pipeline.config.spec import StudySpec as StudySpec
    from pipeline.config.study_file import load_spec as load_spec
    from pipeline.export.checkpoint import load as load
    from pipeline.export.selection import export_study as export_study
    from pipeline.export.selection import save as save
    from pipeline.objective.objective import Objective as Objective
    from pipeline.run.study_run import RunOptions as RunOptions
    from pipeline.run.study_run import run_study as run_study
    from pipeline.task.contract import Task as Task
    from pipeline.task.prepare import prepare as prepare


if not TYPE_CHECKING:  # else a type checker would accept every name

    def __getattr__(name):
        tree = ast.parse(Path(__file__).read_bytes())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules = {alias.asname: node.module for node in imports for alias in node.names if alias.asname}
        if name == "__all__":
            return sorted(modules)
        if name not in modules:
            raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
        globals()[name] = getattr(import_module(modules[name]), name)
        return globals()[name]
