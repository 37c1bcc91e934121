"""The first act: what there is, a study file, whether it is ready, what it would take, and the run."""

import logging
import sys
from typing import Annotated

import typer

from pipeline.cli.app import CacheLimit, Database, Device, Json, Seed, Study, app, print_json, read_spec
from pipeline.cli.verb import carried_out, command_given
from pipeline.terminal.console import Console

logger = logging.getLogger(__name__)


@app.command(epilog="Example: restora ls --json | jq '.compressions[].name'    Next: restora new NAME")
@carried_out
def ls(as_json: Json = False) -> None:
    """List models, data sets, compressions, adapters, inits and studies."""
    from pipeline.cli.listing import listing, listing_lines
    from pipeline.terminal.text import print_lines

    table = listing()
    if as_json:
        print_json(table)
    else:
        print_lines(listing_lines(table), sys.stdout)


@app.command(epilog="Example: restora new mystudy    Next: edit studies/mystudy.toml, then restora check mystudy")
@carried_out
def new(name: Annotated[str, typer.Argument(help="Name of the study.", metavar="NAME")]) -> None:
    """Write a commented study file to start from."""
    from pipeline.config.template import write_template

    path = write_template(name)
    print(path)
    logger.info(f"edit it, then: restora check {name}")


@app.command(epilog="Example: restora check quickstart    Next: restora plan quickstart")
@carried_out
def check(study: Study, as_json: Json = False) -> None:
    """Look at a study's file, weights and data before it starts: every image is decoded, nothing is trained."""
    from pipeline.config.study_file import study_file
    from pipeline.errors import IntegrityError, SpecError
    from pipeline.run.estimate import TARGETS_FIT, targets_fit
    from pipeline.task import check_task
    from pipeline.terminal.check_lines import tick_lines
    from pipeline.terminal.text import print_lines

    spec = read_spec(study)
    ticks = [("study file is valid", True, str(study_file(study))), *check_task(spec.task)]
    if all(ok for _, ok, _ in ticks):
        ticks.append(targets_fit(spec))
    if as_json:
        print_json([{"what": what, "ok": ok, "said": said} for what, ok, said in ticks])
    else:
        print_lines(tick_lines(ticks, sys.stdout), sys.stdout)
    failed = [what for what, ok, _ in ticks if not ok]
    if failed:
        error = SpecError if ticks[-1][0] == TARGETS_FIT else IntegrityError
        raise error(f"not ready to run: {', '.join(failed)}")
    logger.info(f"next: restora plan {study}")


@app.command(epilog="Example: restora plan quickstart    Next: restora run quickstart")
@carried_out
def plan(
    study: Study,
    as_json: Json = False,
    device: Device = "auto",
    seed: Seed = None,
    score: Annotated[bool, typer.Option("--score", help="Score cells untrained; trains a missing baseline.")] = False,
) -> None:
    """Say what a run would do and take: cells, trials, trained parameters, bytes, memory, disk, time."""
    from pipeline.environment import choose_device
    from pipeline.run.estimate import objectives_to_plan, plan_study
    from pipeline.terminal.plan_lines import plan_lines
    from pipeline.terminal.text import print_lines

    spec = read_spec(study, seed)
    objectives = objectives_to_plan(spec, choose_device(device), score=score)
    table = plan_study(spec, objectives, score=score)
    if as_json:
        print_json(table)
    else:
        print_lines(plan_lines(table), sys.stdout)
    logger.info(f"next: restora run {study}")


@app.command(epilog="Example: restora run quickstart --timeout 3600    Next: restora report quickstart")
@carried_out
def run(
    study: Study,
    storage: Database = None,
    device: Device = "auto",
    seed: Seed = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds after which to stop, resumable.")] = None,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Trials trained in one pass; else as many as are measured quickest.")
    ] = None,
    cache_limit: CacheLimit = 50,
) -> None:
    """Create or resume a study; running it again is always right, and adds nothing once the budgets are met."""
    from pipeline.cli.outline import trials_to_come
    from pipeline.config.study_file import study_file
    from pipeline.dashboard.feed import FEED_WAIT, Feed
    from pipeline.environment import choose_device
    from pipeline.guard import Guard, StopTraining
    from pipeline.paths import LOGS, default_database
    from pipeline.run.study_run import RunOptions, run_study
    from pipeline.search.events import AllOf
    from pipeline.store.database import open_storage, storage_errors

    spec = read_spec(study, seed)
    url = storage or default_database()
    options = RunOptions(
        command=command_given(),
        file=study_file(study).read_text(),
        device=choose_device(device),
        cohort=cohort,
        cache_limit=round(cache_limit * 1e9),
    )
    console = Console(LOGS / f"{spec.name}.log", spec.name, trials_to_come(spec, url))
    with console, Guard(timeout), storage_errors(url):
        feed = Feed(open_storage(url, wait=FEED_WAIT), spec.name)
        try:
            run_study(spec, open_storage(url), options, AllOf(console, feed))
        except (StopTraining, KeyboardInterrupt) as stop:
            console.end_table()
            reason = str(stop) or "interrupted twice"
            logger.warning(f"stopped: {reason}; what had finished is stored. To resume: {command_given()}")
            raise typer.Exit(stop.exit_code if isinstance(stop, StopTraining) else 130) from None
        logger.info(f"done. next: restora report {study}; restora export {study}; restora dashboard")
