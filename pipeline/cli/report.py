"""`restora report`: write a study as one HTML page."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import app, carried_out, next_command, print_json, results_of
from pipeline.cli.options import Database, Json, Studies
from pipeline.paths import report_folder
from pipeline.wording import readable_bytes

logger = logging.getLogger(__name__)


@app.command(epilog="Example: restora report quickstart    Next: open the page, then restora export quickstart")
@carried_out
def report(
    studies: Studies,
    storage: Database = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: storage/reports/<study>.")] = None,
    png: Annotated[
        bool, typer.Option("--png/--no-png", help="Also write the main pictures as PNG files; takes some seconds.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write one HTML page that works offline, its tables as CSV, and its main pictures as PNG."""
    from pipeline.config.study_file import stored_name
    from pipeline.report.page import write_report
    from pipeline.report.png import write_pngs
    from pipeline.results.trained_layers import layer_rows

    names = list(dict.fromkeys(map(stored_name, studies)))
    folder = out or report_folder("+".join(names))
    results = results_of(studies[0], storage, *studies[1:])
    written = write_report(results, folder, datetime.now().astimezone())
    pictures = write_pngs(written.figures, folder / "png") if png else []
    if as_json:
        tables, drawn = ([str(path) for path in paths] for paths in (written.tables, pictures))
        print_json({"page": str(written.page), "tables": tables, "pictures": drawn, "layers": layer_rows(results)})
    else:
        print(written.page)
    size, following = readable_bytes(written.page.stat().st_size), next_command("export", names[0], storage)
    logger.info(f"one file of {size} that works offline; next: {following}")
