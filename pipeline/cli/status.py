"""`restora status`: show the progress of a study."""

import functools
from typing import Annotated, Any

import typer

from pipeline.cli.app import app, carried_out, results_of, show
from pipeline.cli.options import Database, Json, Study
from pipeline.cli.status_lines import status_lines
from pipeline.cli.watch import watch_study
from pipeline.paths import default_database


@app.command(epilog="Example: restora status quickstart --watch    Next: restora run quickstart")
@carried_out
def status(
    study: Study,
    storage: Database = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep showing it until the study is finished; Ctrl-C ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show for each cell: budget, trials by state, best value and trial, and why trials failed."""
    from pipeline.config.study_file import stored_name
    from pipeline.locks import is_run
    from pipeline.results.study_state import read_status

    url, name = storage or default_database(), stored_name(study)

    def read(*, with_reasons: bool = False) -> list[dict[str, Any]]:
        table = read_status(url, name, with_reasons=with_reasons)
        if table is None:
            from pipeline.results.tables import status_table  # imports Optuna, which the quick way does not need

            table = status_table(results_of(study, storage))
        return table

    if watch:
        watch_study(name, read, functools.partial(is_run, url, name), as_json=as_json)
    else:
        show(read(with_reasons=as_json), status_lines, as_json=as_json)
