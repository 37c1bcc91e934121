"""The third act: the checkpoints, and what may go."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import complete
from pipeline.cli.app import Database, Device, Json, Study, app, print_json, read_spec, results_of
from pipeline.cli.verb import carried_out


@app.command(epilog="Example: restora export quickstart --force    Next: pipeline.load(FOLDER) in Python")
@carried_out
def export(
    study: Study,
    storage: Database = None,
    combination: Annotated[
        str | None, typer.Option(help="Only this combination.", autocompletion=complete.combinations)
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="This trial of --combination, not the ranks' best.")] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace checkpoints that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Write the best checkpoint of each rank, truly packed, with its card."""
    from pipeline.config.study_file import pinned
    from pipeline.environment import choose_device
    from pipeline.errors import NothingUsableError, UsageError
    from pipeline.export.selection import export_ranks, export_trial
    from pipeline.guard import Guard
    from pipeline.run.study_run import make_objectives
    from pipeline.store.kept_adapters import Kept
    from pipeline.store.stored_study import refuse_differences
    from pipeline.task import prepare

    results = {result.name: result for result in results_of(study, storage)}
    seed = next(iter(results.values())).facts["pinned"]["seed"]
    spec = read_spec(study, seed)
    names = [spec.find(combination).name] if combination else list(results)
    if trial is not None and len(names) > 1:
        raise UsageError(f"--trial needs --combination, one of: {', '.join(names)}")
    if not any(results[name].best_of_ranks() for name in names if name in results):
        raise NothingUsableError(f"no trial of '{spec.name}' is complete yet; next: restora run {study}")
    device = choose_device(device)
    task = prepare(spec.task, device=device)
    objectives = make_objectives(spec, task, device)
    for name in names:
        refuse_differences(f"{spec.name}/{name}", results[name].facts, pinned(spec, spec.find(name)), dict(task.hashes))
    written: list[dict[str, Any]] = []
    with Guard():
        for name in names:
            kept = Kept(spec.name, name, results[name].facts["id"])
            if trial is not None:
                folders = iter([export_trial(objectives[name], results[name], kept, trial, force=force)])
            else:
                folders = export_ranks(objectives[name], results[name], kept, force=force)
            for folder in folders:
                written.append({"combination": name, "folder": str(folder), "files": _sizes(folder)})
                if not as_json:
                    print(folder)
    if as_json:
        print_json(written)


@app.command(epilog="Example: restora clean --dry-run    Next: restora run STUDY makes again what it needs")
@carried_out
def clean(
    storage: Database = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove caches, half-written files, and kept adapters that are no stored winner's; never trials or exports."""
    from pipeline.paths import default_database
    from pipeline.run.cleanup import remove, unneeded
    from pipeline.store.database import open_storage, storage_errors

    url = storage or default_database()
    with storage_errors(url):
        paths = unneeded(open_storage(url, create=False))
    removed: list[dict[str, Any]] = []
    for path in paths:
        removed.append({"path": str(path), "bytes": sum(_sizes(path).values())})
        if not as_json:
            print(path)
        if not dry_run:
            remove(path)
    if as_json:
        print_json({"dry_run": dry_run, "bytes": sum(each["bytes"] for each in removed), "removed": removed})


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of each file of a folder by its path in it, or of the one file."""
    files = [path] if path.is_file() else [each for each in sorted(path.rglob("*")) if each.is_file()]
    return {str(file.relative_to(path)) if file != path else file.name: file.stat().st_size for file in files}
