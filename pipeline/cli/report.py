"""`restora report`: a study as one HTML page."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import complete
from pipeline.cli.app import Database, Json, app, print_json, results_of
from pipeline.cli.verb import carried_out

logger = logging.getLogger(__name__)


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
