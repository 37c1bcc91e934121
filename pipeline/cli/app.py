"""The command `restora`, and what its verbs share: reading a study, reading its results, printing JSON."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.config.spec import StudySpec
    from pipeline.results.combination_result import CombinationResult

app = typer.Typer(
    name="restora",
    help="Compress a trained vision model, restore its accuracy, and export the best checkpoint of each size.",
    epilog="Begin with: restora run quickstart. For your own study: restora new mystudy, edit studies/mystudy.toml, "
    "then restora check mystudy, restora plan mystudy, restora run mystudy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"restora {version('restora')}")
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    os.environ["RESTORA_DEBUG"] = "1" if debug else os.environ.get("RESTORA_DEBUG", "")


def read_spec(study: str, seed: int | None = None) -> "StudySpec":
    """Read and validate a study file, given by its path or by its name in ``studies/``."""
    from pipeline.config.study_file import load_spec

    return load_spec(study, seed)


def results_of(study: str, storage: str | None, *others: str) -> "list[CombinationResult]":
    """Read the stored results of a study, followed by those of ``others``."""
    from pipeline.config.study_file import stored_name
    from pipeline.paths import default_database
    from pipeline.results.reading import read_results
    from pipeline.store.database import open_storage, storage_errors

    url = storage or default_database()
    with storage_errors(url):
        return read_results(open_storage(url, create=False), *map(stored_name, (study, *others)))


def print_json(table: Any) -> None:
    """Print strict JSON; NaN and infinities become null."""
    print(json.dumps(_finite(table), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_sizes(path: Path) -> dict[str, int]:
    """Bytes per file: of one file by its name, or of all files in a folder by their relative paths."""
    if path.is_file():
        return {path.name: path.stat().st_size}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.stat().st_size for file in files}
