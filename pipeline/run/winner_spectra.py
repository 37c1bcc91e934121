"""The spectra that a study asks for: of the baseline as it is trained, and of each cell's winner afterwards."""

import logging
from collections.abc import Sequence
from pathlib import Path

import optuna
from torch import nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.attention import with_plain_attention
from pipeline.compress.targets import find_targets
from pipeline.config.spec import StudySpec
from pipeline.errors import IntegrityError
from pipeline.objective.objective import Objective
from pipeline.paths import baseline_spectra, winner_spectra
from pipeline.results.reading import find_winners
from pipeline.results.spectra_file import Spectra, read_spectra, write_spectra
from pipeline.run.snapshot import Snapshot, adapter_snapshot, courses, weight_snapshot
from pipeline.run.winners import values_of
from pipeline.store.stored_study import trial_key
from pipeline.task.contract import Task
from pipeline.task.prepare import baseline_epochs

logger = logging.getLogger(__name__)


def watched_layers(spec: StudySpec, model: nn.Module) -> list[str]:
    """The layers whose spectra a study asks for, by the names that its first combination gives them.

    Raises:
        SpecError: A pattern matches no layer.
    """
    model = with_plain_attention(model, spec.combination[0].qkv)
    return find_targets(model, spec.spectra.layers, "spectra.layers") if spec.spectra else []


def train_watched_baseline(spec: StudySpec, device: str) -> list[Snapshot]:
    """Train and keep the baseline; a snapshot of the watched layers from the start and after each epoch."""
    qkv = spec.combination[0].qkv
    return [
        weight_snapshot(with_plain_attention(model, qkv), watched_layers(spec, model))
        for model in baseline_epochs(spec.task, device)
    ]


def keep_baseline_spectra(spec: StudySpec, task: Task, snapshots: Sequence[Snapshot]) -> None:
    """Write the spectra of a baseline that was trained just now; log if those of an earlier baseline are missing.

    Args:
        spec: The study.
        task: Its task, with a trained baseline.
        snapshots: Of each epoch, from the start; empty if the baseline was trained before.
    """
    if spec.spectra is None or spec.task.baseline is None:
        return
    layers, weights, kept = watched_layers(spec, task.model), task.hashes["weights"], spec.spectra.values
    path = baseline_spectra(weights)
    if snapshots:
        write_spectra(path, Spectra(of=weights, values=kept, courses=courses(snapshots, kept)))
        return
    known = _recorded(path, weights)
    if known is None or not known.covers(layers, kept):
        logger.warning(
            "baseline: not all spectra are recorded, because it was trained before they were asked for; "
            "`restora clean` removes kept baselines, and the next run trains and records them"
        )


def _recorded(path: Path, of: str) -> Spectra | None:
    try:
        return read_spectra(path, of)
    except IntegrityError as error:
        logger.warning(f"{error}")
        return None


def record_winners(spec: StudySpec, objective: Objective, study: optuna.Study) -> None:
    """Train each cell's winner once more, alone, and record its spectra; existing records stay."""
    name, watched = objective.combination.name, watched_layers(spec, objective.combination.task.model)
    layers = [layer for layer in watched if layer in objective.combination.targets]
    if spec.spectra is None or not layers:
        return
    adapter, kept = objective.combination.adapter, spec.spectra.values
    if not isinstance(adapter, Lora):
        logger.warning(f"{name}: no spectra of its winners: the adapter '{adapter.name}' has no product s B A")
        return
    for cell, trial in find_winners(study).items():
        path = winner_spectra(spec.name, name, cell.rank, cell.init)
        key = trial_key(study.user_attrs["id"], trial.number)
        known = _recorded(path, key)
        if known is not None and known.covers(layers, kept):
            continue
        logger.info(f"{name}: {cell}: trial {trial.number} is trained again, for its spectra")
        lane, model = objective.lane(values_of(trial)), objective.bases.of(cell).compressed.model
        snapshots = [adapter_snapshot(model, adapter, lane.parameters, lane.alpha, layers)]
        for _ in objective.epochs(lane):
            snapshots.append(adapter_snapshot(model, adapter, lane.parameters, lane.alpha, layers))
        if lane.failure is None:
            write_spectra(path, Spectra(of=key, values=kept, courses=courses(snapshots, kept)))
        else:
            logger.warning(f"{name}: {cell}: no spectra: the winner was trained again, and failed: {lane.failure}")
