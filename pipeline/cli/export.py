"""`restora export`: write the winners' checkpoints."""

from typing import Annotated, Any

import typer

from pipeline.cli.app import app, carried_out, file_sizes, print_json, read_spec
from pipeline.cli.options import Database, Device, Json, Study, complete_combinations


@app.command(epilog="Example: restora export quickstart --force    Next: pipeline.load(FOLDER) in Python")
@carried_out
def export(
    study: Study,
    storage: Database = None,
    combination: Annotated[
        str | None, typer.Option(help="Only this combination.", autocompletion=complete_combinations)
    ] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Export this trial of --combination instead of the best per rank.")
    ] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace existing checkpoints.")] = False,
    as_json: Json = False,
) -> None:
    """Write the best checkpoint of each rank: packed weights, and a card that describes them."""
    from pipeline.environment import choose_device
    from pipeline.export.selection import export_study
    from pipeline.guard import Guard

    spec = read_spec(study)
    written: list[dict[str, Any]] = []
    try:
        with Guard():
            for name, folder in export_study(
                spec, storage, combination=combination, trial=trial, device=choose_device(device), force=force
            ):
                written.append({"combination": name, "folder": str(folder), "files": file_sizes(folder)})
                if not as_json:
                    print(folder)
    finally:
        if as_json and written:
            print_json(written)
