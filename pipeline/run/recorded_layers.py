"""What training made of each compressed layer: bits, errors, moved codes; stored once for the winner of each cell."""

from collections.abc import Mapping

import optuna
import torch
from torch import Tensor

from pipeline.adapt.contract import Adapter, stored_model
from pipeline.compress.layers import matrix_shape, weight_matrix
from pipeline.compress.sizes import model_size
from pipeline.compress.weight import share_moved
from pipeline.errors import SpecError
from pipeline.objective.objective import Objective
from pipeline.results.reading import find_winners
from pipeline.results.trained_layers import TrainedLayer, as_text, stored_layers
from pipeline.space import Values
from pipeline.store.kept_adapters import Kept
from pipeline.store.stored_study import write_long


def record_layers(objective: Objective, study: optuna.Study, kept: Kept) -> None:
    """Store the layers of each cell's winner, unless they are; winners whose adapter is not kept are left out."""
    facts = study.user_attrs
    for cell, trial in find_winners(study).items():
        if stored_layers(facts, cell, trial.number) is not None:
            continue
        parameters = kept.load(cell, trial.number)
        if parameters is not None:
            layers = measure_layers(objective, Values.of(trial.params), parameters)
            write_long(study, cell.layers_key, as_text(trial.number, layers))


def measure_layers(objective: Objective, values: Values, parameters: Mapping[str, Tensor]) -> list[TrainedLayer]:
    """The compressed layers of a trial of these values that trained ``parameters``, in the model's order."""
    combination, base = objective.combination, objective.bases.of(values.cell).compressed
    adapter, compressed = combination.adapter, combination.compressed.weights
    stored = stored_model(adapter, base, parameters)
    sizes = model_size(combination.original, stored, coded=True).layers
    weights, left = adapter.absorb(base.weights, parameters)
    added = {key: tensor for key, tensor in left.items() if key not in stored.unpacked}
    layers = []
    for name, trained in weights.items():
        W = weight_matrix(base.reference.get_submodule(name)).cpu()
        shape = matrix_shape(combination.original.get_submodule(name))
        before = after = None
        if W.shape == shape:
            own = {key.removeprefix(f"{name}."): added[key] for key in added if key.rpartition(".")[0] == name}
            before = _relative_error(W, compressed[name].dense())
            after = _relative_error(W, _computed_weight(adapter, trained.dense(), own, values.alpha))
        moved = None if trained is base.weights[name] else _four_digits(share_moved(base.weights[name], trained))
        size = sizes[name]
        bits = size.base.total(bias=False), size.adapter
        layers.append(TrainedLayer(name, shape[0] * shape[1], *bits, before, after, moved))
    return layers


def _computed_weight(adapter: Adapter, Q: Tensor, added: Mapping[str, Tensor], alpha: float) -> Tensor | None:
    """The weight ``[out, in]`` that a layer computes with; None if the adapter has none."""
    try:
        return adapter.merged(Q, added, alpha) if added else Q
    except SpecError:
        return None


def _relative_error(W: Tensor, computed: Tensor | None) -> float | None:
    """``||W - computed||^2 / ||W||^2``; None for a weight of zeros."""
    norm = float(W.double().square().sum())
    if computed is None or not norm:
        return None
    return _four_digits(float(torch.dist(W.double(), computed.double().cpu())) ** 2 / norm)


def _four_digits(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
