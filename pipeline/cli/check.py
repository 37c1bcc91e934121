"""`restora check`: say whether a study is ready to run."""

import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.text import Text

from pipeline.cli.app import app, carried_out, read_spec, show
from pipeline.cli.options import Json, Study
from pipeline.terminal.text import can_show

logger = logging.getLogger(__name__)

SIGNS = {True: "✓", False: "✗"}
WORDS = {True: "ok  ", False: "FAIL"}
"""Used instead of the signs if stdout is no terminal, or its encoding lacks them."""


@app.command(epilog="Example: restora check quickstart    Next: restora plan quickstart")
@carried_out
def check(study: Study, as_json: Json = False) -> None:
    """Check a study's file, weights and data. Every image is decoded; nothing is trained."""
    from pipeline.config.study_file import study_file
    from pipeline.errors import IntegrityError, SpecError
    from pipeline.run.readiness import TARGETS_FIT, check_study

    spec = read_spec(study)
    valid = {"what": "study file is valid", "ok": True, "said": str(study_file(study))}
    findings = [valid, *(finding._asdict() for finding in check_study(spec))]
    show(findings, lambda table: check_lines(table, sys.stdout), as_json=as_json)
    failed = [finding["what"] for finding in findings if not finding["ok"]]
    if failed:
        error = SpecError if failed == [TARGETS_FIT] else IntegrityError
        raise error(f"not ready to run; failed: {', '.join(failed)}")
    logger.info(f"next: restora plan {study}")


def check_lines(findings: Iterable[dict[str, Any]], stream: TextIO) -> list[Text]:
    """One line per check; what a failed check found follows on lines of its own."""
    signs = SIGNS if stream.isatty() and can_show("".join(SIGNS.values()), stream.encoding) else WORDS
    lines = []
    for finding in findings:
        sign, ok = signs[finding["ok"]], finding["ok"]
        said = f": {finding['said']}".replace("\n", "\n" + " " * (len(sign) + 2))
        line = Text().append(sign, style="green" if ok else "bold red")
        lines.append(line.append(f"  {finding['what']}", style="" if ok else "bold").append(said))
    return lines
