"""The second act: where a study stands, what it came to, and its trials in a browser."""

import functools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.app import Database, Json, Study, app, print_json, results_of
from pipeline.terminal import Console, carried_out


@app.command(epilog="Example: restora status quickstart --watch    Next: restora run quickstart")
@carried_out
def status(
    study: Study,
    storage: Database = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until it is finished; ends with Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Say of each cell: budget, trials by state, best value and trial, and why trials failed."""
    from pipeline.paths import default_database
    from pipeline.search.lock import is_run
    from pipeline.search.summary import read_status
    from pipeline.study_file import stored_name
    from pipeline.terminal.status import status_lines
    from pipeline.terminal.text import print_lines
    from pipeline.terminal.watch import watch as watch_study

    url, name = storage or default_database(), stored_name(study)

    def read(*, with_reasons: bool = False) -> list[dict[str, Any]]:
        table = read_status(url, name, with_reasons=with_reasons)
        if table is None:
            from pipeline.report.tables import status_table  # it brings Optuna, which the summary does not need

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
    study: Study,
    storage: Database = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to [storage/reports/<study>].")] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page and its tables: accuracy against rank and bytes, curves, history, importances."""
    from pipeline.paths import report_folder
    from pipeline.report.page import write_report
    from pipeline.study_file import stored_name

    page = write_report(results_of(study, storage), out or report_folder(stored_name(study)))
    if as_json:
        print_json({"page": str(page), "tables": sorted(map(str, page.parent.glob("*.csv")))})
    else:
        print(page)
    Console().say(f"next: restora export {study}")


@app.command(epilog="Example: restora dashboard --port 8080    Stop it with Ctrl-C")
@carried_out
def dashboard(
    storage: Database = None, port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8080
) -> None:
    """Serve optuna-dashboard on loopback."""
    from pipeline.dashboard.serve import serve
    from pipeline.paths import default_database

    serve(storage or default_database(), port, Console().say)
