"""Scores of the untrained cells: the output error of the layers, and the accuracy on a sample of images."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.adapt.lanes import Lanes, attach
from pipeline.cell import Cell
from pipeline.compress.layers import copy_sharing_tensors, on_device
from pipeline.guard import check_stop
from pipeline.objective.objective import Objective
from pipeline.seeds import derive
from pipeline.space import cells, middle
from pipeline.task.parts import PASS, Part

SCORE_IMAGES = 1024
"""Images of the validation part that measure the accuracy of a score."""
ERROR_IMAGES = 256
"""Images of the training part that measure output errors, which need fewer images than accuracy."""


@dataclass(frozen=True)
class CellScore:
    """The score of a cell before training, with its values in the middle of every range."""

    cell: Cell
    output_error: float
    """``||y - y'||^2 / ||y||^2`` of a layer's outputs on training images, ``y`` of the uncompressed layer and ``y'`` of
    the adapted one, both on the uncompressed layer's inputs; the mean over target layers."""
    accuracy: float
    """Accuracy on a sample of the validation part."""
    images: int
    """Number of images in that sample, the first of a seeded permutation."""


@torch.no_grad()
def score_cells(objective: Objective, images: int = SCORE_IMAGES) -> list[CellScore]:
    """The score of each cell, in the order of ``cells``; empty for an adapter without ranks.

    Each image passes once through the uncompressed model, once per base through the frozen layers, and once per cell
    through the rest.
    """
    if not objective.combination.adapter.low_rank:
        return []
    starts = {cell: _start(objective, cell) for cell in cells(objective.combination.search)}
    errors = _output_errors(objective, starts)
    chosen = _sample(objective, objective.combination.task.val, images)
    bases = {cell: objective.bases.of(cell) for cell in starts}
    logits = {cell: bases[cell].program.bind(lanes) for cell, lanes in starts.items()}
    correct = dict.fromkeys(starts, 0)
    for batch, labels in objective.combination.task.val.batches(PASS, chosen):
        for base in dict.fromkeys(bases.values()):
            check_stop()
            inputs = base.program.inputs(batch.to(objective.recipe.device))
            for cell in (cell for cell in starts if bases[cell] is base):
                correct[cell] += int((logits[cell](*inputs).argmax(1).cpu() == labels).sum())
    return [CellScore(cell, round(errors[cell], 6), correct[cell] / len(chosen), len(chosen)) for cell in starts]


def ranked(scores: Sequence[CellScore]) -> list[CellScore]:
    """Scores by falling accuracy, ties by rising output error, then in their order."""
    return sorted(scores, key=lambda score: (-score.accuracy, score.output_error))


def _start(objective: Objective, cell: Cell) -> Lanes:
    """The untrained lane of a cell, with its tensors rounded as a file stores them."""
    lane = objective.lane(middle(cell, objective.combination.search, objective.combination.adapter))
    stored = objective.combination.adapter.rounded(lane.parameters, objective.combination.storage)
    return Lanes([({key: t[None].to(objective.recipe.device) for key, t in stored.items()}, [lane.alpha])])


def _sample(objective: Objective, part: Part, images: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive(objective.combination.seed, "score"))
    return torch.randperm(len(part), generator=generator)[:images]


def _output_errors(objective: Objective, starts: dict[Cell, Lanes]) -> dict[Cell, float]:
    """The mean relative error of each cell's layers."""
    combination, targets, device = objective.combination, objective.combination.targets, objective.recipe.device
    reference = on_device(copy_sharing_tensors(combination.compressed.reference), device)
    models = {cell: copy_sharing_tensors(objective.bases.of(cell).compressed.model) for cell in starts}
    for cell, model in models.items():
        attach(model, combination.adapter, starts[cell], objective.bases.of(cell).compressed.weights)
    norms, off = dict.fromkeys(targets, 0.0), {cell: dict.fromkeys(targets, 0.0) for cell in starts}

    def compare(name: str, layer: nn.Module, inputs: tuple[torch.Tensor], y: torch.Tensor) -> None:
        norms[name] += float(y.double().square().sum())
        for cell, model in models.items():
            off[cell][name] += float((model.get_submodule(name)(*inputs) - y).double().square().sum())

    for name in targets:
        reference.get_submodule(name).register_forward_hook(functools.partial(compare, name))
    for images, _ in combination.task.train.batches(PASS, _sample(objective, combination.task.train, ERROR_IMAGES)):
        check_stop()
        reference(images.to(device))
    return {
        cell: sum(error / norms[name] for name, error in errors.items() if norms[name]) / len(targets)
        for cell, errors in off.items()
    }
