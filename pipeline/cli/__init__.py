"""The verbs, in three acts: parse, call, print, exit code. Torch is imported inside a verb, never for --help."""

from pipeline.cli import launch, look, take  # each adds its verbs to the command, in this order
from pipeline.cli.app import app

__all__ = ["app", "launch", "look", "main", "take"]


def main() -> None:
    """The ``restora`` command."""
    app()
