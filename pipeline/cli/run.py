"""`restora run`: create or resume a study."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import app, carried_out, command_given, next_command, read_spec
from pipeline.cli.options import Database, Device, Seed, Study
from pipeline.environment import choose_device
from pipeline.guard import Guard, StopTraining
from pipeline.paths import LOGS, default_database
from pipeline.results.progress import CellProgress, Progress, progress_of
from pipeline.search.events import AllOf
from pipeline.terminal.console import Console

if TYPE_CHECKING:
    from pipeline.config.spec import StudySpec

logger = logging.getLogger(__name__)


@app.command(epilog="Example: restora run quickstart --timeout 3600    Next: restora report quickstart")
@carried_out
def run(
    study: Study,
    storage: Database = None,
    device: Device = "auto",
    seed: Seed = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Stop after this many seconds; resumable.")] = None,
    cohort: Annotated[
        int | None,
        typer.Option(min=1, help="Trials trained in one pass over the data. Default: the quickest number measured."),
    ] = None,
    cache_limit: Annotated[
        float, typer.Option(min=0, help="GB on disk for cached outputs of frozen layers; the oldest are removed first.")
    ] = 50,
) -> None:
    """Create or resume a study. Running it again is always safe, and adds nothing once the budgets are met."""
    from pipeline.config.study_file import study_file, study_text
    from pipeline.dashboard.feed import FEED_WAIT, Feed
    from pipeline.run.study_run import RunOptions, run_study
    from pipeline.store.database import open_storage

    spec = read_spec(study, seed)
    url = storage or default_database()
    options = RunOptions(
        command=command_given(),
        file=study_text(study_file(study)),
        device=choose_device(device),
        cohort=cohort,
        cache_limit=round(cache_limit * 1e9),
    )
    console = Console(LOGS / f"{spec.name}.log", spec.name, progress_before(spec, url))
    with console, Guard(timeout):
        feed = Feed(open_storage(url, wait=FEED_WAIT), spec.name)
        try:
            run_study(spec, url, options, AllOf(console, feed))
        except (StopTraining, KeyboardInterrupt) as stop:
            console.end_table()
            reason = str(stop) or "interrupted twice"
            logger.warning(f"stopped: {reason}; finished trials are stored. To resume: {command_given()}")
            raise typer.Exit(stop.exit_code if isinstance(stop, StopTraining) else 130) from None
        commands = [next_command("report", study, storage), next_command("export", study, storage)]
        logger.info(f"done. next: {'; '.join(commands)}; {next_command('dashboard', storage=storage)}")


def progress_before(spec: "StudySpec", url: str) -> dict[str, Progress]:
    """The progress of each combination as the run begins, in the study file's order.

    A combination whose state cannot be read quickly (after a killed run, for example) counts as not begun.
    """
    from pipeline.results.study_state import read_status
    from pipeline.space import cells, fitted

    stored = {part["combination"]: progress_of(part) for part in read_status(url, spec.name, with_reasons=False) or []}
    parts = {}
    for combination in spec.combination:
        search = fitted(spec.search, combination.adapter)
        before = stored.get(combination.name, Progress((), search.epochs))
        begun = before.cells or [CellProgress(cell.rank, cell.init, 0) for cell in cells(search)]
        budgets = tuple(replace(cell, budget=search.trials, running=0) for cell in begun)
        parts[combination.name] = replace(before, cells=budgets)
    return parts
