"""`restora new`: write a commented study file to start from."""

import logging
from typing import Annotated

import typer

from pipeline.cli.app import app, carried_out

logger = logging.getLogger(__name__)


@app.command(epilog="Example: restora new mystudy    Next: edit studies/mystudy.toml, then restora check mystudy")
@carried_out
def new(name: Annotated[str, typer.Argument(help="Name of the study.", metavar="NAME")]) -> None:
    """Write a commented study file to start from."""
    from pipeline.config.study_file import write_template

    path = write_template(name)
    print(path)
    logger.info(f"edit it, then: restora check {name}")
