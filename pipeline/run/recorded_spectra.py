"""The spectra that a study records: of the baseline as it is trained, and of each cell's winner afterwards."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import optuna
import torch
from torch import Tensor, nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.attention import with_plain_attention
from pipeline.compress.layers import layer_in_errors, weight_matrix
from pipeline.compress.spectrum import effective_rank, product_singular_values, shares, singular_values
from pipeline.compress.targets import resolve
from pipeline.config.spec import StudySpec
from pipeline.errors import IntegrityError
from pipeline.objective.objective import Objective
from pipeline.paths import baseline_spectra, winner_spectra
from pipeline.results.reading import find_winners
from pipeline.results.spectra_file import Course, Matrix, Spectra, read_spectra, write_spectra
from pipeline.space import Values
from pipeline.store.stored_study import trial_key
from pipeline.task.baseline import baseline_epochs
from pipeline.task.contract import Task, first_images
from pipeline.task.inspection import inspect
from pipeline.task.opened_task import OpenedTask
from pipeline.wording import cell_name

logger = logging.getLogger(__name__)
Snapshot = Mapping[tuple[Matrix, str], Tensor]
"""The singular values of each matrix, by its kind and its layer."""


def weight_snapshot(model: nn.Module, layers: Sequence[str]) -> Snapshot:
    """The spectra of weights ``W``; a convolution's is that of its view ``[out, in / groups * kh * kw]``."""
    values: dict[tuple[Matrix, str], Tensor] = {}
    for name in layers:
        with layer_in_errors(name):
            values["W", name] = singular_values(weight_matrix(model.get_submodule(name)))
    return values


def adapter_snapshot(
    model: nn.Module, adapter: Lora, parameters: Mapping[str, Tensor], alpha: float, layers: Sequence[str]
) -> Snapshot:
    """The spectra of products ``s B A`` and of adapted weights ``Q + s B A``; layers without an adapter are skipped.

    ``model`` is the compressed model, with ``Q`` in its layers.
    """
    values: dict[tuple[Matrix, str], Tensor] = {}
    for name in layers:
        if f"{name}.lora_A" not in parameters:
            continue
        Q = weight_matrix(model.get_submodule(name)).double()
        A, B = (parameters[f"{name}.lora_{factor}"].to(Q) for factor in "AB")
        s = adapter.s(alpha, len(A))
        with layer_in_errors(name):
            values["s B A", name] = product_singular_values(B, A, s)
            values["Q + s B A", name] = singular_values(_adapted(Q, A, B, s, parameters, name))
    return values


def _adapted(Q: Tensor, A: Tensor, B: Tensor, s: float, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """The adapted weight, with trained gains of its rows or trained magnitudes if there are any."""
    gain, magnitude = (parameters.get(f"{name}.{kind}") for kind in ("gain", "magnitude"))
    adapted = torch.addmm(Q if gain is None else Q * gain.to(Q)[:, None], B, A, alpha=s)
    return adapted if magnitude is None else nn.functional.normalize(adapted, dim=1) * magnitude.to(Q)[:, None]


def courses(snapshots: Sequence[Snapshot], values: int) -> tuple[Course, ...]:
    """The snapshots of all epochs by matrix; the first ``values`` shares are kept, to six digits."""
    return tuple(
        Course(
            matrix=matrix,
            layer=layer,
            shares=tuple(_rounded(shares(epoch[matrix, layer])[:values]) for epoch in snapshots),
            effective_rank=_rounded(torch.tensor([effective_rank(epoch[matrix, layer]) for epoch in snapshots])),
        )
        for matrix, layer in snapshots[0]
    )


def _rounded(numbers: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{number:.6g}") for number in numbers.tolist())


def watched_layers(spec: StudySpec, task: Task) -> list[str]:
    """The layers whose spectra a study asks for, by the names that its first combination gives them."""
    if spec.spectra is None:
        return []
    model = with_plain_attention(task.model, spec.combination[0].qkv)
    return list(resolve(inspect(model, first_images(task.train)), spec.spectra.layers, "spectra.layers"))


def train_watched_baseline(spec: StudySpec, layers: Sequence[str], opened: OpenedTask, device: str) -> list[Snapshot]:
    """Train and keep the baseline; a snapshot of some layers from the start and after each epoch."""
    qkv, models = spec.combination[0].qkv, baseline_epochs(opened, device)
    return [weight_snapshot(with_plain_attention(model, qkv), layers) for model in models]


def keep_baseline_spectra(spec: StudySpec, task: Task, snapshots: Sequence[Snapshot]) -> None:
    """Write the spectra of a baseline that was trained just now; log if those of an earlier baseline are missing.

    The snapshots are those of the start and of each epoch; there are none if the baseline was trained before.
    """
    if spec.spectra is None or spec.task.baseline is None:
        return
    layers, weights, kept = watched_layers(spec, task), task.hashes["weights"], spec.spectra.values
    path = baseline_spectra(weights)
    if snapshots:
        write_spectra(path, Spectra(of=weights, values=kept, courses=courses(snapshots, kept)))
    elif not _is_recorded(path, weights, layers, kept):
        logger.warning(
            "baseline: not all spectra are recorded, because it was trained before they were asked for; "
            "`restora clean` removes kept baselines, and the next run trains and records them"
        )


def _is_recorded(path: Path, of: str, layers: list[str], values: int) -> bool:
    try:
        known = read_spectra(path, of)
    except IntegrityError as error:
        logger.warning(f"{error}")
        return False
    return known is not None and known.covers(layers, values)


def record_winners(spec: StudySpec, objective: Objective, study: optuna.Study) -> None:
    """Train each cell's winner once more, alone, and record its spectra; existing records stay."""
    name, watched = objective.combination.name, watched_layers(spec, objective.combination.task)
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
        if _is_recorded(path, key, layers, kept):
            continue
        label = f"{name}: {cell_name(cell.rank, cell.init, spec.search.budget_unit)}"
        logger.info(f"{label}: trial {trial.number} is trained again, for its spectra")
        lane, model = objective.lane(Values.of(trial.params)), objective.bases.of(cell).compressed.model
        snapshots = [
            adapter_snapshot(model, adapter, lane.parameters, lane.alpha, layers)
            for _ in chain(["start"], objective.epochs(lane))
        ]
        if lane.failure is None:
            write_spectra(path, Spectra(of=key, values=kept, courses=courses(snapshots, kept)))
        else:
            logger.warning(f"{label}: no spectra: the winner was trained again, and failed: {lane.failure}")
