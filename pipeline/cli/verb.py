"""What carries a verb out: its exit code, and what is said of what it raised."""

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
    """Turn what a verb raises into a line on stderr and an exit code; a traceback only with --debug."""

    @functools.wraps(verb)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with Console():
                return verb(*args, **kwargs)
        except (typer.Exit, KeyboardInterrupt):
            raise
        except BrokenPipeError:  # whoever read stdout has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None  # type: ignore[return-value]
        except Exception as error:
            if os.environ.get("RESTORA_DEBUG"):
                traceback.print_exc()
            code, said = _outcome(error)
        print(said, file=sys.stderr)
        raise typer.Exit(code)

    return guarded


def _outcome(error: Exception) -> tuple[int, str]:
    """The exit code that an error ends in, and what is said of it."""
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
        return 4, f"error: {error}; mend it and give the same command again"
    return 1, f"error: {type(error).__name__}: {error}; this is a bug, restora --debug shows where"


def command_given() -> str:
    """The command that was given, without a password that a URL in it may hold."""
    return shlex.join(["restora", *map(_shown, sys.argv[1:])])


def _shown(word: str) -> str:
    if "://" not in word:
        return word
    from sqlalchemy.exc import ArgumentError

    from pipeline.store.database import without_password

    option, equals, url = word.partition("=") if word.startswith("--") else ("", "", word)
    try:
        return f"{option}{equals}{without_password(url)}"
    except ArgumentError:
        return f"{option}{equals}***"
