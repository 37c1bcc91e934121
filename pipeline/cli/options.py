"""Arguments and options that several verbs share, and their completions for a shell's Tab key.

Completion has to answer at once, so it reads study files as plain TOML and imports neither torch nor Optuna.
"""

import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from pipeline.paths import read_text


def complete_studies(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of the study files in ``studies/``, each with the first line of its file as help."""
    for path in sorted(Path("studies").glob("*.toml")):
        if path.stem.startswith(incomplete):
            first = ""
            with suppress(OSError, ValueError):
                first = read_text(path).partition("\n")[0].strip("# ")
            yield path.stem, first


def complete_combinations(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the combinations in the study that the command line names; empty where the file is not valid."""
    from pipeline.config.study_file import study_file

    # While the option still lacks its value, click has not parsed the arguments, and the study is among the rest.
    unparsed = next(iter(context.args), "")
    path = study_file(context.params.get("study") or unparsed)
    try:
        tables = tomllib.loads(read_text(path)).get("combination", [])
        names = [str(table["name"]) for table in tables]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []  # the verb itself reports what is wrong with the file
    return [name for name in names if name.startswith(incomplete)]


def complete_devices(incomplete: str) -> list[str]:
    return [name for name in ("auto", "cpu", "cuda") if name.startswith(incomplete)]


Study = Annotated[
    str,
    typer.Argument(
        help="A study file, or the name of one in studies/.", metavar="STUDY", autocompletion=complete_studies
    ),
]
Studies = Annotated[
    list[str],
    typer.Argument(
        help="Study files, or names of files in studies/; several are shown side by side.",
        metavar="STUDY",
        autocompletion=complete_studies,
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="SQLAlchemy URL of the database. Default: RESTORA_STORAGE, or storage/studies.db.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", autocompletion=complete_devices)]
Seed = Annotated[int | None, typer.Option(min=0, help="Use this seed instead of the study file's.")]
