"""What every verb runs in: errors become a line on stderr and an exit code; and the commands that it prints."""

import functools
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from pipeline.environment import require_matching_torchvision
from pipeline.errors import RestoraError
from pipeline.guard import StopTraining
from pipeline.terminal.console import Console

P = ParamSpec("P")
R = TypeVar("R")


def carried_out(verb: Callable[P, R]) -> Callable[P, R]:
    """Decorate a verb: its log goes to stderr, and an exception ends it with one line and an exit code.

    The traceback is printed only with ``restora --debug``.
    """

    @functools.wraps(verb)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with Console():
                return verb(*args, **kwargs)
        except (typer.Exit, KeyboardInterrupt):
            raise
        except BrokenPipeError:  # the reader of stdout, such as `head`, has closed it; nobody is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None  # type: ignore[return-value]
        except Exception as error:
            if os.environ.get("RESTORA_DEBUG"):
                traceback.print_exc()
            code, message = _outcome(error)
        print(message, file=sys.stderr)
        raise typer.Exit(code)

    return guarded


def _outcome(error: Exception) -> tuple[int, str]:
    """Exit code and message for an exception."""
    if isinstance(error, RestoraError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, StopTraining):
        return error.exit_code, f"stopped: {error}; give the same command again"
    if isinstance(error, RuntimeError | ImportError) and "torchvision" in str(error):
        try:
            require_matching_torchvision()
        except RestoraError as mismatch:
            return _outcome(mismatch)
    if isinstance(error, OSError):
        return 4, f"error: {error}; correct this and give the same command again"
    return 1, f"error: {type(error).__name__}: {error}; this is a bug, restora --debug shows where"


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
