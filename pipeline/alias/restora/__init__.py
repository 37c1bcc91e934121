"""Restora by the name of its distribution: ``import restora`` gives the names of ``import pipeline``.

A file ``pipeline.py`` of one's own hides the package of that name from the scripts beside it. This name is not hidden.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def _package() -> ModuleType:
    """The package ``pipeline``: the first of that name that is ours, or the one that was installed with this file."""
    known = sys.modules.get("pipeline")
    if known is not None and not _is_ours(known.__file__):
        raise ImportError(
            f"{known.__file__} was imported as 'pipeline' before restora, whose own package has that name; import "
            f"restora first, or rename the file"
        )
    spec = find_spec("pipeline")
    if spec is not None and _is_ours(spec.origin):
        return import_module("pipeline")
    installed = (parent / "pipeline" / "__init__.py" for parent in Path(__file__).resolve().parents)
    spec = spec_from_file_location("pipeline", next(file for file in installed if _is_ours(str(file))))
    assert spec is not None
    assert spec.loader is not None
    sys.modules["pipeline"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


def _is_ours(file: str | None) -> bool:
    return file is not None and (Path(file).parent / "cli" / "app.py").is_file()


_pipeline = _package()


def __getattr__(name: str) -> object:
    if name == "__version__":
        from pipeline.environment import version_of

        return version_of("restora")
    return getattr(_pipeline, name)


def __dir__() -> list[str]:
    return [*_pipeline.__all__, "__version__"]
