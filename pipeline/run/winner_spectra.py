"""The spectra that a study asks for: of the baseline as it is trained, and of each cell's winner afterwards."""

from collections.abc import Callable, Sequence

import optuna
from torch import nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.attention import arranged
from pipeline.compress.targets import find_targets
from pipeline.config.spec import StudySpec
from pipeline.objective.objective import Objective
from pipeline.paths import baseline_spectra, winner_spectra
from pipeline.results.spectra_file import Spectra, read_spectra, write_spectra
from pipeline.results.stored_results import find_winners
from pipeline.run.snapshot import Snapshot, adapter_snapshot, courses, weight_snapshot
from pipeline.run.winners import train_again, values_of
from pipeline.store.stored_study import trial_key
from pipeline.task import Task
from pipeline.train.cohort import Lane


def watched_layers(spec: StudySpec, model: nn.Module) -> list[str]:
    """The layers whose spectra a study asks for, by the names that its first combination gives them.

    Raises:
        SpecError: A pattern matches no layer.
    """
    own = arranged(model, spec.combination[0].qkv)
    return find_targets(own, spec.spectra.layers, "spectra.layers") if spec.spectra else []


def watch_weights(spec: StudySpec, snapshots: list[Snapshot]) -> Callable[[nn.Module], None]:
    """What adds a snapshot of the asked layers' weights, whenever it is called."""
    qkv = spec.combination[0].qkv
    return lambda model: snapshots.append(weight_snapshot(arranged(model, qkv), watched_layers(spec, model)))


def keep_baseline_spectra(
    spec: StudySpec, task: Task, snapshots: Sequence[Snapshot], say: Callable[[str], None]
) -> None:
    """Write what was watched of a baseline as it was trained; of an earlier one, say where the record is missing."""
    if spec.spectra is None or spec.task.baseline is None:
        return
    layers, weights, kept = watched_layers(spec, task.model), task.hashes["weights"], spec.spectra.values
    path = baseline_spectra(weights)
    if snapshots:
        write_spectra(path, Spectra(of=weights, values=kept, courses=courses(snapshots, kept)))
        return
    known = read_spectra(path, weights, say)
    if known is None or not known.covers(layers, kept):
        say(
            "baseline: not all spectra are recorded, for it was trained before they were asked for; "
            "`restora clean` removes kept baselines, and the next run trains and records them"
        )


def record_winners(
    spec: StudySpec, objective: Objective, study: optuna.Study, check: Callable[[], None], say: Callable[[str], None]
) -> None:
    """Train each cell's winner once more, alone, and record its spectra; what is recorded already stays."""
    name, watched = objective.combination.name, watched_layers(spec, objective.task.model)
    layers = [layer for layer in watched if layer in objective.targets]
    if spec.spectra is None or not layers:
        return
    adapter, kept = objective.adapter, spec.spectra.values
    if not isinstance(adapter, Lora):
        say(f"{name}: no spectra of its winners: the adapter '{adapter.name}' is no product s B A")
        return
    for cell, trial in find_winners(study).items():
        path = winner_spectra(spec.name, name, cell.rank, cell.init)
        key = trial_key(study.user_attrs["id"], trial.number)
        known = read_spectra(path, key, say)
        if known is not None and known.covers(layers, kept):
            continue
        say(f"{name}: {cell}: trial {trial.number} is trained again, for its spectra")
        snapshots: list[Snapshot] = []
        base = objective.base(cell).compressed.model

        def watch(lane: Lane, snapshots: list[Snapshot] = snapshots, model: nn.Module = base) -> None:
            snapshots.append(adapter_snapshot(model, adapter, lane.parameters, lane.alpha, layers))

        lane = train_again(objective, values_of(trial), check, watch=watch)
        if lane.failure is None:
            write_spectra(path, Spectra(of=key, values=kept, courses=courses(snapshots, kept)))
        else:
            say(f"{name}: {cell}: no spectra: the winner was trained again, and failed: {lane.failure}")
