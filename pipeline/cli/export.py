"""`restora export`: write the winners' checkpoints."""

from typing import Annotated, Any

import typer

from pipeline.cli.app import app, file_sizes, print_json, read_spec, results_of
from pipeline.cli.options import Database, Device, Json, Study, complete_combinations
from pipeline.cli.verb import carried_out, next_command


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
    from pipeline.config.study_file import pinned
    from pipeline.environment import choose_device
    from pipeline.errors import NothingUsableError, UsageError
    from pipeline.export.selection import export_ranks, export_trial
    from pipeline.guard import Guard
    from pipeline.run.readiness import make_objectives
    from pipeline.store.kept_adapters import Kept
    from pipeline.store.stored_study import refuse_differences
    from pipeline.task.prepare import prepare

    results = {result.name: result for result in results_of(study, storage)}
    seed = next(iter(results.values())).facts["pinned"]["seed"]
    spec = read_spec(study, seed)
    names = [spec.find(combination).name] if combination else list(results)
    if trial is not None and len(names) > 1:
        raise UsageError(f"--trial needs --combination, one of: {', '.join(names)}")
    if not any(results[name].best_of_ranks() for name in names if name in results):
        raise NothingUsableError(
            f"no trial of '{spec.name}' is complete yet; next: {next_command('run', study, storage)}"
        )
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
                written.append({"combination": name, "folder": str(folder), "files": file_sizes(folder)})
                if not as_json:
                    print(folder)
    if as_json:
        print_json(written)
