"""The verbs: parse, call, print, exit code. Torch is imported inside a verb, never for --help."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.terminal import Console, carried_out, command_given

if TYPE_CHECKING:
    from pipeline.spec import StudySpec

app = typer.Typer(
    name="restora",
    help="Compress a trained vision model, win the lost accuracy back, keep the best checkpoint of each size.",
    epilog="Begin with: restora new mystudy; restora check mystudy; restora plan mystudy; restora run mystudy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Study = Annotated[str, typer.Argument(help="A study file, or the name of one in studies/.", metavar="STUDY")]
Database = Annotated[
    str | None,
    typer.Option("--storage", help="SQLAlchemy URL of the stored studies [RESTORA_STORAGE, or storage/studies.db]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Seed = Annotated[int | None, typer.Option(min=0, help="Takes the place of the study file's seed.")]
CacheLimit = Annotated[float, typer.Option(min=0, help="GB on disk for outputs of frozen layers; oldest out first.")]


@app.callback()
def _main(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    os.environ["RESTORA_DEBUG"] = "1" if debug else os.environ.get("RESTORA_DEBUG", "")


def _spec(study: str, seed: int | None = None) -> "StudySpec":
    from pipeline.study_file import load_spec, study_file

    return load_spec(study_file(study), seed)


def _print(table: Any) -> None:
    print(json.dumps(table, indent=2))


@app.command(epilog="Example: restora ls --json | jq '.compressions[].name'    Next: restora new NAME")
@carried_out
def ls(as_json: Json = False) -> None:
    """List models, data sets, compressions, adapters, inits and studies."""
    from pipeline.terminal import listing

    table = listing()
    if as_json:
        _print(table)
        return
    for noun, entries in table.items():
        print(noun)
        for entry in entries:
            print(f"  {entry['name']:<16} {entry['summary']}")


@app.command(epilog="Example: restora new mystudy    Next: edit studies/mystudy.toml, then restora check mystudy")
@carried_out
def new(name: Annotated[str, typer.Argument(help="Name of the study.", metavar="NAME")]) -> None:
    """Write a commented study file to start from."""
    from pipeline.template import write_template

    path = write_template(name)
    print(path)
    Console().say(f"edit it, then: restora check {name}")


@app.command(epilog="Example: restora check quickstart    Next: restora plan quickstart")
@carried_out
def check(study: Study, as_json: Json = False) -> None:
    """Look at a study's file, weights and data before it starts: every image is decoded, nothing is trained."""
    from pipeline.errors import IntegrityError, SpecError
    from pipeline.search.plan import TARGETS_FIT, targets_fit
    from pipeline.study_file import study_file
    from pipeline.task import check as check_task

    spec = _spec(study)
    ticks = [("study file is valid", True, str(study_file(study))), *check_task(spec.task)]
    if all(ok for _, ok, _ in ticks):
        ticks.append(targets_fit(spec))
    if as_json:
        _print([{"what": what, "ok": ok, "said": said} for what, ok, said in ticks])
    else:
        for what, ok, said in ticks:
            print(f"{'ok  ' if ok else 'FAIL'}  {what}: {said}")
    failed = [what for what, ok, _ in ticks if not ok]
    if failed:
        error = SpecError if ticks[-1][0] == TARGETS_FIT else IntegrityError
        raise error(f"not ready to run: {', '.join(failed)}")
    Console().say(f"next: restora plan {study}")


@app.command(epilog="Example: restora plan quickstart    Next: restora run quickstart")
@carried_out
def plan(
    study: Study,
    as_json: Json = False,
    device: Device = "auto",
    seed: Seed = None,
    score: Annotated[bool, typer.Option("--score", help="Score cells untrained; trains a missing baseline.")] = False,
) -> None:
    """Say what a run would do and take: cells, trials, trained parameters, bytes, memory, disk, time."""
    from pipeline.environment import choose_device
    from pipeline.search.plan import objectives_to_plan, plan_study
    from pipeline.terminal import plan_lines

    spec, console = _spec(study, seed), Console()
    objectives = objectives_to_plan(spec, choose_device(device), console.say, score=score)
    table = plan_study(spec, objectives, score=score)
    if as_json:
        _print(table)
    else:
        print("\n".join(plan_lines(table)))
    console.say(f"next: restora run {study}")


@app.command(epilog="Example: restora run quickstart --timeout 3600    Next: restora report quickstart")
@carried_out
def run(
    study: Study,
    storage: Database = None,
    device: Device = "auto",
    seed: Seed = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds after which to stop, resumable.")] = None,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Trials trained in one pass [as many as are measured quickest].")
    ] = None,
    cache_limit: CacheLimit = 50,
) -> None:
    """Create or resume a study; running it again is always right, and adds nothing once the budgets are met."""
    from pipeline.environment import choose_device
    from pipeline.paths import LOGS, default_database
    from pipeline.search.run import run_study
    from pipeline.search.storage import open_storage, storage_errors
    from pipeline.train.guard import Guard, StopTraining

    spec = _spec(study, seed)
    url = storage or default_database()
    console = Console(LOGS / f"{spec.name}.log")
    with Guard(timeout) as guard, storage_errors(url):
        try:
            run_study(
                spec,
                open_storage(url),
                device=choose_device(device),
                guard=guard,
                cohort=cohort,
                cache_limit=round(cache_limit * 1e9),
                say=console.say,
                show=console.show,
            )
        except (StopTraining, KeyboardInterrupt) as stop:
            console.say(
                f"stopped: {stop or 'interrupted twice'}; what had finished is stored. To resume: {command_given()}"
            )
            raise typer.Exit(stop.exit_code if isinstance(stop, StopTraining) else 130) from None
    console.say(f"done. next: restora report {study}; restora export {study}; restora dashboard")


@app.command(epilog="Example: restora status quickstart --json    Next: restora run quickstart")
@carried_out
def status(study: Study, storage: Database = None, as_json: Json = False) -> None:
    """Say of each cell: budget, trials by state, best value and trial."""
    from pipeline.paths import default_database
    from pipeline.search.summary import read_status
    from pipeline.study_file import stored_name
    from pipeline.terminal import status_lines

    table = read_status(storage or default_database(), stored_name(study), with_reasons=as_json)
    if table is None:
        from pipeline.report.tables import status_table  # it brings Optuna, which the summary does not need

        table = status_table(_results(study, storage))
    if as_json:
        _print(table)
    else:
        print("\n".join(status_lines(table)))


def _results(study: str, storage: str | None) -> Any:
    from pipeline.paths import default_database
    from pipeline.search.results import read_results
    from pipeline.search.storage import open_storage, storage_errors
    from pipeline.study_file import stored_name

    url = storage or default_database()
    with storage_errors(url):
        return read_results(open_storage(url, create=False), stored_name(study))


@app.command(epilog="Example: restora report quickstart    Next: open the page, then restora export quickstart")
@carried_out
def report(
    study: Study,
    storage: Database = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to [storage/reports/<study>].")] = None,
) -> None:
    """Write one HTML page and its tables: accuracy against rank and bytes, curves, history, importances."""
    from pipeline.paths import report_folder
    from pipeline.report.page import write_report
    from pipeline.study_file import stored_name

    print(write_report(_results(study, storage), out or report_folder(stored_name(study))))
    Console().say(f"next: restora export {study}")


@app.command(epilog="Example: restora export quickstart --force    Next: pipeline.load(FOLDER) in Python")
@carried_out
def export(
    study: Study,
    storage: Database = None,
    combination: Annotated[str | None, typer.Option(help="Only this combination.")] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="This trial of --combination, not the ranks' best.")] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace checkpoints that are there.")] = False,
) -> None:
    """Write the best checkpoint of each rank, truly packed, with its card."""
    from pipeline.environment import choose_device
    from pipeline.errors import NothingUsableError, UsageError
    from pipeline.export.trials import export_ranks, export_trial
    from pipeline.search.keep import Kept
    from pipeline.search.objective import make_features
    from pipeline.search.run import make_objectives
    from pipeline.search.storage import refuse_differences
    from pipeline.study_file import pinned
    from pipeline.task import prepare
    from pipeline.train.guard import Guard

    results = {result.name: result for result in _results(study, storage)}
    seed = next(iter(results.values())).facts["pinned"]["seed"]
    spec = _spec(study, seed)
    names = [spec.find(combination).name] if combination else list(results)
    if trial is not None and len(names) > 1:
        raise UsageError(f"--trial needs --combination, one of: {', '.join(names)}")
    if not any(results[name].best_of_ranks() for name in names if name in results):
        raise NothingUsableError(f"no trial of '{spec.name}' is complete yet; next: restora run {study}")
    say, guard, device = Console().say, Guard(), choose_device(device)
    task = prepare(spec.task, device=device, say=say)
    features = make_features(spec.compute, device, say=say, check=guard.check)
    objectives = make_objectives(spec, task, device, features)
    for name in names:
        refuse_differences(f"{spec.name}/{name}", results[name].facts, pinned(spec, spec.find(name)), dict(task.hashes))
    with guard:
        for name in names:
            kept = Kept(spec.name, name, results[name].facts["id"])
            if trial is not None:
                print(export_trial(objectives[name], results[name], kept, trial, guard.check, force=force))
            else:
                for folder in export_ranks(objectives[name], results[name], kept, guard.check, force=force):
                    print(folder)


@app.command(epilog="Example: restora dashboard --port 8080    Stop it with Ctrl-C")
@carried_out
def dashboard(
    storage: Database = None, port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8080
) -> None:
    """Serve optuna-dashboard on loopback."""
    from pipeline.dashboard import serve
    from pipeline.paths import default_database

    serve(storage or default_database(), port, Console().say)


@app.command(epilog="Example: restora clean --dry-run    Next: restora run STUDY makes again what it needs")
@carried_out
def clean(
    storage: Database = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove caches, half-written files, and kept adapters that are no stored winner's; never trials or exports."""
    from pipeline.paths import default_database
    from pipeline.search.clean import remove, unneeded
    from pipeline.search.storage import open_storage, storage_errors

    url = storage or default_database()
    with storage_errors(url):
        paths = unneeded(open_storage(url, create=False))
    for path in paths:
        print(path)
        if not dry_run:
            remove(path)


def main() -> None:
    """The ``restora`` command."""
    app()


if __name__ == "__main__":
    main()
