"""The command line: one file per verb, which parses, calls, prints, and ends with an exit code.

A verb imports torch when it runs, so that ``--help`` answers at once.
"""

from pipeline.cli import ls, new, check, plan, run, status, report, dashboard, export, clean  # isort: skip
from pipeline.cli.app import app
from pipeline.terminal.text import make_printable

__all__ = ["app", "check", "clean", "dashboard", "export", "ls", "main", "new", "plan", "report", "run", "status"]


def main() -> None:
    """The ``restora`` command."""
    make_printable()
    app()
