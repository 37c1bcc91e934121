"""`restora check`: say whether a study is ready to run."""

import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.text import Text

from pipeline.cli.app import app, carried_out, next_command, outcome, print_json, read_spec
from pipeline.cli.options import Database, Device, Json, Seed, Study
from pipeline.paths import default_database
from pipeline.terminal.text import can_show, print_lines

if TYPE_CHECKING:
    from pipeline.task.data_check import Finding

logger = logging.getLogger(__name__)

FILE = "study file is valid"
SIGNS = {True: "✓", False: "✗"}
WORDS = {True: "ok  ", False: "FAIL"}
"""Used instead of the signs if stdout is no terminal, or its encoding lacks them."""


@app.command(epilog="Example: restora check quickstart    Next: restora plan quickstart")
@carried_out
def check(
    study: Study, storage: Database = None, device: Device = "auto", seed: Seed = None, as_json: Json = False
) -> None:
    """Carry out the steps before a study's first trial, and list what each found. Every image is decoded."""
    ticks, errors = list[dict[str, Any]](), dict[str, Exception]()
    for finding in _findings(study, storage or default_database(), device, seed):
        ticks.append({"what": finding.what, "ok": finding.ok, "said": finding.said, "error": None})
        if finding.error is not None and finding.what == FILE and not as_json:
            raise finding.error  # nothing was found yet that a list could show
        if finding.error is not None:
            errors[finding.what] = finding.error
            ticks[-1]["error"] = type(finding.error).__name__
        if not as_json:
            print_lines([check_line(ticks[-1], sys.stdout)], sys.stdout)
    if as_json:
        print_json(ticks)
    if errors:
        code, _ = outcome(next(iter(errors.values())))  # that of the error at which a run would stop
        print(f"error: not ready to run; failed: {', '.join(errors)}", file=sys.stderr)
        raise typer.Exit(code)
    logger.info(f"next: {next_command('plan', study, storage)}")


def _findings(study: str, url: str, device: str, seed: int | None) -> "Iterator[Finding]":
    from pipeline.config.study_file import study_file
    from pipeline.errors import SpecError
    from pipeline.run.readiness import Readiness, findings

    specs = []

    def read() -> str:
        specs.append(read_spec(study, seed))
        return str(study_file(study))

    yield from findings(FILE, SpecError, read)
    for spec in specs:
        yield from Readiness(spec, url, device, images="all").steps()


def check_line(tick: dict[str, Any], stream: TextIO) -> Text:
    """The line of one check; what a failed check found follows on lines of its own."""
    signs = SIGNS if stream.isatty() and can_show("".join(SIGNS.values()), stream.encoding) else WORDS
    sign, ok = signs[tick["ok"]], tick["ok"]
    said = f": {tick['said']}".replace("\n", "\n" + " " * (len(sign) + 2))
    line = Text().append(sign, style="green" if ok else "bold red")
    return line.append(f"  {tick['what']}", style="" if ok else "bold").append(said)
