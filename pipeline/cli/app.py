"""The command `restora`, and what its verbs share: errors, reading a study and its results, printing, commands."""

import errno
import functools
import json
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from rich.text import Text

from pipeline.environment import torchvision_mismatch, version_of
from pipeline.errors import RestoraError, UsageError
from pipeline.guard import StopTraining
from pipeline.paths import default_database
from pipeline.terminal.console import Console
from pipeline.terminal.text import print_lines

if TYPE_CHECKING:
    from pipeline.config.spec import StudySpec
    from pipeline.results.combination_result import CombinationResult

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)

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
        print(f"restora {version_of('restora')}")
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    os.environ["RESTORA_DEBUG"] = "1" if debug else os.environ.get("RESTORA_DEBUG", "")


def carried_out(verb: Callable[P, R]) -> Callable[P, R]:
    """Decorate a verb: its log goes to stderr, and an exception ends it with one line and an exit code.

    The traceback is printed only with ``restora --debug``.
    """

    @functools.wraps(verb)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            _refuse_folder_that_is_gone()
            with Console():
                result = verb(*args, **kwargs)
            sys.stdout.flush()
            return result
        except (typer.Exit, KeyboardInterrupt):
            raise
        except BrokenPipeError:  # the reader of stdout, such as `head`, has closed it; nobody is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None  # type: ignore[return-value]
        except Exception as error:
            if os.environ.get("RESTORA_DEBUG"):
                traceback.print_exc()
            code, message = outcome(error)
        print(message, file=sys.stderr)
        raise typer.Exit(code)

    return guarded


def _refuse_folder_that_is_gone() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:  # torch's libraries would end the process
        raise UsageError("the working folder does not exist any more; change to another") from None


def outcome(error: Exception) -> tuple[int, str]:
    """Exit code and message for an exception."""
    if isinstance(error, RestoraError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, StopTraining):
        return error.exit_code, f"stopped: {error}; give the same command again"
    if mismatch := torchvision_mismatch(error):
        return outcome(mismatch)
    if isinstance(error, OSError):
        away = "work in a folder where you may write, or " if error.errno in FORBIDDEN else ""
        return 4, f"error: {error}; {away}correct this and give the same command again"
    return 1, f"error: {type(error).__name__}: {error}; this is a bug, restora --debug shows where"


def read_spec(study: str, seed: int | None = None) -> "StudySpec":
    """Read and validate a study file, given by its path or by its name in ``studies/``."""
    from pipeline.config.study_file import load_spec

    return load_spec(study, seed)


def results_of(study: str, storage: str | None, *others: str) -> "list[CombinationResult]":
    """Read the stored results of a study, followed by those of ``others``."""
    from pipeline.config.study_file import stored_name
    from pipeline.results.reading import read_results
    from pipeline.store.database import open_storage, storage_errors

    url = storage or default_database()
    with storage_errors(url):
        return read_results(open_storage(url, "read"), *map(stored_name, (study, *others)))


def show(table: T, lines: Callable[[T], list[Text]], *, as_json: bool) -> None:
    """Print a table to stdout: as JSON, or as the lines that ``lines`` makes of it."""
    if as_json:
        print_json(table)
    else:
        print_lines(lines(table), sys.stdout)


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


def command_given() -> str:
    """The command line of this process, with the passwords in its URLs hidden."""
    return shlex.join(["restora", *map(_without_password, sys.argv[1:])])


def next_command(verb: str, study: str = "", storage: str | None = None) -> str:
    """A command to suggest, with the ``--storage`` of this one."""
    words = ["restora", verb, *([study] if study else [])]
    return shlex.join([*words, "--storage", _without_password(storage)] if storage else words)


def _without_password(word: str) -> str:
    if "://" not in word:
        return word
    from sqlalchemy.exc import ArgumentError

    from pipeline.store.database import without_password

    option, equals, url = word.partition("=") if word.startswith("--") else ("", "", word)
    try:
        return f"{option}{equals}{without_password(url)}"
    except ArgumentError:
        return f"{option}{equals}***"
