"""`restora plan`: show what a run would do and need."""

import logging
from typing import Annotated

import typer

from pipeline.cli.app import app, carried_out, next_command, read_spec, show
from pipeline.cli.options import Database, Device, Json, Seed, Study
from pipeline.cli.plan_lines import plan_lines
from pipeline.paths import default_database

logger = logging.getLogger(__name__)


@app.command(epilog="Example: restora plan quickstart    Next: restora run quickstart")
@carried_out
def plan(
    study: Study,
    storage: Database = None,
    as_json: Json = False,
    device: Device = "auto",
    seed: Seed = None,
    score: Annotated[
        bool, typer.Option("--score", help="Score each cell before training; trains the baseline if it is missing.")
    ] = False,
) -> None:
    """Show what a run would do and need: cells, trials, trainable parameters, bytes, memory, disk, time."""
    from pipeline.guard import Guard
    from pipeline.objective.scores import ERROR_IMAGES, SCORE_IMAGES
    from pipeline.run.estimate import plan_study
    from pipeline.run.objectives import trained_objectives
    from pipeline.run.readiness import Readiness

    spec = read_spec(study, seed)
    ready = Readiness(spec, storage or default_database(), device, images="none")
    ready.require(writing=score)  # a baseline that is trained for the scores is kept
    objectives = ready.outlined
    if score:
        with Guard():
            objectives = trained_objectives(ready.settled, ready.opened, ready.device)
        images = f"up to {SCORE_IMAGES} validation and {ERROR_IMAGES} training images"
        logger.info(f"scoring: each cell is evaluated on {images}")
    table = plan_study(spec, ready.outlines, objectives, score=score)
    for combination in table["combinations"]:
        combination["chosen"] = ready.known.get(combination["combination"], {}).get("auto", {})
    show(table, plan_lines, as_json=as_json)
    logger.info(f"next: {next_command('run', study, storage)}")
