"""`restora clean`: remove files that the next run can make again."""

from typing import Annotated, Any

import typer

from pipeline.cli.app import app, carried_out, file_sizes, print_json
from pipeline.cli.options import Database, Json
from pipeline.paths import default_database


@app.command(epilog="Example: restora clean --dry-run    Next: restora run STUDY, which makes again what it needs")
@carried_out
def clean(
    storage: Database = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove caches, incomplete files, and adapters of trials that are not winners; never trials or exports."""
    from pipeline.run.cleanup import remove, unneeded
    from pipeline.store.database import open_storage, storage_errors

    url = storage or default_database()
    with storage_errors(url):
        paths = unneeded(open_storage(url, "read"))
    removed: list[dict[str, Any]] = []
    for path in paths:
        removed.append({"path": str(path), "bytes": sum(file_sizes(path).values())})
        if not as_json:
            print(path)
        if not dry_run:
            remove(path)
    if as_json:
        print_json({"dry_run": dry_run, "bytes": sum(entry["bytes"] for entry in removed), "removed": removed})
