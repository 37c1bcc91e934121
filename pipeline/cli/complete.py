"""What a shell offers where Tab is pressed; study files are read as TOML alone, for an answer at once."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import typer


def studies(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of the study files in ``studies/``, with the first line of each."""
    for path in sorted(Path("studies").glob("*.toml")):
        if path.stem.startswith(incomplete):
            with path.open() as file:
                yield path.stem, file.readline().strip("# \n")


def combinations(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the combinations of the study that was given before."""
    from pipeline.config.study_file import study_file

    left_over = next(iter(context.args), "")  # where the option still lacks its value, nothing is parsed
    path = study_file(context.params.get("study") or left_over)
    try:
        tables = tomllib.loads(path.read_text()).get("combination", [])
        names = [str(table["name"]) for table in tables]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError):
        return []  # a completion says nothing; the verb will say what is wrong
    return [name for name in names if name.startswith(incomplete)]


def devices(incomplete: str) -> list[str]:
    return [name for name in ("auto", "cpu", "cuda") if name.startswith(incomplete)]
