"""`restora check`: say whether a study is ready to run."""

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from pipeline.cli.app import app, print_json, read_spec
from pipeline.cli.options import Json, Study
from pipeline.cli.verb import carried_out

if TYPE_CHECKING:
    from rich.text import Text

logger = logging.getLogger(__name__)


@app.command(epilog="Example: restora check quickstart    Next: restora plan quickstart")
@carried_out
def check(study: Study, as_json: Json = False) -> None:
    """Check a study's file, weights and data. Every image is decoded; nothing is trained."""
    from pipeline.config.study_file import study_file
    from pipeline.errors import IntegrityError, SpecError
    from pipeline.run.readiness import TARGETS_FIT, check_study
    from pipeline.terminal.text import print_lines

    spec = read_spec(study)
    ticks = [("study file is valid", True, str(study_file(study))), *check_study(spec)]
    if as_json:
        print_json([{"what": what, "ok": ok, "said": said} for what, ok, said in ticks])
    else:
        print_lines(tick_lines(ticks, sys.stdout), sys.stdout)
    failed = [what for what, ok, _ in ticks if not ok]
    if failed:
        error = SpecError if ticks[-1][0] == TARGETS_FIT else IntegrityError
        raise error(f"not ready to run; failed: {', '.join(failed)}")
    logger.info(f"next: restora plan {study}")


SIGNS = {True: "✓", False: "✗"}
WORDS = {True: "ok  ", False: "FAIL"}
"""Used instead of the signs if stdout is no terminal, or its encoding lacks them."""


def tick_lines(ticks: Iterable[tuple[str, bool, str]], stream: TextIO) -> "list[Text]":
    """One line per check; the findings of a failed check follow on lines of their own."""
    from pipeline.terminal.text import can_show

    signs = SIGNS if stream.isatty() and can_show("".join(SIGNS.values()), stream.encoding) else WORDS
    return [_line(signs[ok], what, ok, said) for what, ok, said in ticks]


def _line(sign: str, what: str, ok: bool, said: str) -> "Text":
    from rich.text import Text

    line = Text().append(sign, style="green" if ok else "bold red").append(f"  {what}", style="" if ok else "bold")
    return line.append(f": {said}".replace("\n", "\n" + " " * (len(sign) + 2)))
