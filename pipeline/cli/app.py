"""The command, what its verbs share, and the options that several take."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import complete

if TYPE_CHECKING:
    from pipeline.config.spec import StudySpec
    from pipeline.results.stored_results import CombinationResult

app = typer.Typer(
    name="restora",
    help="Compress a trained vision model, win the lost accuracy back, keep the best checkpoint of each size.",
    epilog="Begin with: restora new mystudy; restora check mystudy; restora plan mystudy; restora run mystudy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Study = Annotated[
    str,
    typer.Argument(
        help="A study file, or the name of one in studies/.", metavar="STUDY", autocompletion=complete.studies
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        "--storage", help="SQLAlchemy URL of the stored studies; else RESTORA_STORAGE, or storage/studies.db."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", autocompletion=complete.devices)]
Seed = Annotated[int | None, typer.Option(min=0, help="Takes the place of the study file's seed.")]
CacheLimit = Annotated[float, typer.Option(min=0, help="GB on disk for outputs of frozen layers; oldest out first.")]


def _print_version(asked: bool) -> None:
    if asked:
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
    """The study of a file, or of a name in ``studies/``."""
    from pipeline.config.study_file import load_spec

    return load_spec(study, seed)


def print_json(table: Any) -> None:
    """Print strict JSON; NaN and infinities become null."""
    print(json.dumps(_finite(table), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def results_of(study: str, storage: str | None, *others: str) -> "list[CombinationResult]":
    """What the database holds of a study, and of others beside it."""
    from pipeline.config.study_file import stored_name
    from pipeline.paths import default_database
    from pipeline.results.stored_results import read_results
    from pipeline.store.database import open_storage, storage_errors

    url = storage or default_database()
    with storage_errors(url):
        return read_results(open_storage(url, create=False), *map(stored_name, (study, *others)))


def file_sizes(path: Path) -> dict[str, int]:
    """Bytes of a file, or of every file in a folder by its path there."""
    files = [path] if path.is_file() else [each for each in sorted(path.rglob("*")) if each.is_file()]
    return {str(file.relative_to(path)) if file != path else file.name: file.stat().st_size for file in files}
