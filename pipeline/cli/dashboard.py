"""`restora dashboard`: show the stored studies in a browser."""

from typing import Annotated

import typer

from pipeline.cli.app import app, carried_out
from pipeline.cli.options import Database
from pipeline.paths import default_database


@app.command(
    epilog="Example: restora dashboard --port 8080    Stop it with Ctrl-C\n\n"
    "From another machine: ssh -L 8080:localhost:8080 THIS_MACHINE, then open http://localhost:8080/dashboard there"
)
@carried_out
def dashboard(
    storage: Database = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="Address or name of this machine to listen on.")] = "127.0.0.1",
    expose: Annotated[
        bool,
        typer.Option(
            "--expose", help="With --host: allow it, although everyone on the network can read all stored studies."
        ),
    ] = False,
    allow_edit: Annotated[
        bool, typer.Option("--allow-edit", help="Let its pages edit notes, upload files and delete studies.")
    ] = False,
) -> None:
    """Serve the stored studies with optuna-dashboard, read-only and to this machine alone."""
    from pipeline.dashboard.serve import serve

    serve(storage or default_database(), host, port, expose=expose, allow_edit=allow_edit)
