"""The second act: where a study stands, what it came to, and its trials in a browser."""

import functools
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import complete
from pipeline.cli.app import Database, Json, Study, app, print_json, results_of
from pipeline.cli.verb import carried_out

logger = logging.getLogger(__name__)


@app.command(epilog="Example: restora status quickstart --watch    Next: restora run quickstart")
@carried_out
def status(
    study: Study,
    storage: Database = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until it is finished; ends with Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Say of each cell: budget, trials by state, best value and trial, and why trials failed."""
    from pipeline.config.study_file import stored_name
    from pipeline.locks import is_run
    from pipeline.paths import default_database
    from pipeline.results.status import read_status
    from pipeline.terminal.status_lines import status_lines
    from pipeline.terminal.text import print_lines
    from pipeline.terminal.watch import watch as watch_study

    url, name = storage or default_database(), stored_name(study)

    def read(*, with_reasons: bool = False) -> list[dict[str, Any]]:
        table = read_status(url, name, with_reasons=with_reasons)
        if table is None:
            from pipeline.results.tables import status_table  # it brings Optuna, which the summary does not need

            table = status_table(results_of(study, storage))
        return table

    if watch:
        watch_study(name, read, functools.partial(is_run, url, name), as_json=as_json)
    elif as_json:
        print_json(read(with_reasons=True))
    else:
        print_lines(status_lines(read()), sys.stdout)


@app.command(epilog="Example: restora report quickstart    Next: open the page, then restora export quickstart")
@carried_out
def report(
    studies: Annotated[
        list[str],
        typer.Argument(
            help="Study files, or names of ones in studies/; several side by side.",
            metavar="STUDY",
            autocompletion=complete.studies,
        ),
    ],
    storage: Database = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; else storage/reports/<study>.")] = None,
    png: Annotated[
        bool, typer.Option("--png/--no-png", help="Write the main pictures as files too; some seconds.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write one HTML page that needs no network, its tables as CSV, and its main pictures as PNG."""
    from datetime import datetime

    from pipeline.config.study_file import stored_name
    from pipeline.paths import report_folder
    from pipeline.report.page import write_report
    from pipeline.report.png import write_pngs
    from pipeline.wording import readable_bytes

    names = list(dict.fromkeys(map(stored_name, studies)))
    folder = out or report_folder("+".join(names))
    written = write_report(results_of(studies[0], storage, *studies[1:]), folder, datetime.now().astimezone())
    pictures = write_pngs(written.figures, folder / "png") if png else []
    if as_json:
        tables = [str(path) for path in written.tables]
        print_json({"page": str(written.page), "tables": tables, "pictures": [str(path) for path in pictures]})
    else:
        print(written.page)
    size = readable_bytes(written.page.stat().st_size)
    logger.info(f"{size} in one file that needs no network; next: restora export {names[0]}")


@app.command(
    epilog="Example: restora dashboard --port 8080    Stop it with Ctrl-C\n\n"
    "From another machine: ssh -L 8080:localhost:8080 THIS_MACHINE, and there open http://localhost:8080/dashboard"
)
@carried_out
def dashboard(
    storage: Database = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="Address or name of this machine to listen on.")] = "127.0.0.1",
    expose: Annotated[
        bool, typer.Option("--expose", help="With --host: everyone on the network can read all that is stored.")
    ] = False,
    allow_edit: Annotated[
        bool, typer.Option("--allow-edit", help="Let its pages edit notes, upload files and delete studies.")
    ] = False,
) -> None:
    """Serve the stored studies to a browser by optuna-dashboard: on loopback, read-only."""
    from pipeline.dashboard.serve import serve
    from pipeline.paths import default_database

    serve(storage or default_database(), host, port, expose=expose, allow_edit=allow_edit)
