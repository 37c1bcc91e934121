"""What every cell's start is worth before any training: how far off its layers are, and how it does on a sample."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.adapt.lanes import Lanes, attach
from pipeline.cell import Cell
from pipeline.compress.layers import on_device, shared_copy
from pipeline.guard import check_stop
from pipeline.objective.base import Base
from pipeline.objective.objective import Objective
from pipeline.seeds import derive
from pipeline.space import cells, middle

SCORE_IMAGES = 1024
"""Images of the validation part that a score is measured on."""
ERROR_IMAGES = 256
"""Images of the training part that layer outputs are compared on; errors settle sooner than accuracy."""
PASS = 64
"""Images in one pass: what the frozen layers give for them is held, for each set of adapted layers."""


@dataclass(frozen=True)
class CellScore:
    """What a cell's start is worth, its values in the middle of every range.

    Args:
        cell: Its rank and init.
        output_error: ``||y - y'||^2 / ||y||^2`` of a layer's outputs on training images, ``y`` of the uncompressed
            layer and ``y'`` of the adapted one, both on the uncompressed layer's inputs; a mean over target layers.
        accuracy: On a sample of the validation part.
        images: Of that sample.
    """

    cell: Cell
    output_error: float
    accuracy: float
    images: int


@torch.no_grad()
def score_cells(objective: Objective, images: int = SCORE_IMAGES) -> list[CellScore]:
    """The score of each cell, in the order of ``cells``; an adapter without ranks has none.

    Each image takes the uncompressed model once, the frozen layers once for each base, and each cell's own once.

    Args:
        objective: What would train.
        images: Of the validation part, the first of a seeded permutation.
    """
    if not objective.combination.adapter.low_rank:
        return []
    starts = {cell: _start(objective, cell) for cell in cells(objective.combination.search)}
    errors = _output_errors(objective, starts)
    chosen = _sample(objective, len(objective.combination.task.val), images)
    correct = _correct(objective, starts, chosen)
    return [CellScore(cell, round(errors[cell], 6), correct[cell] / len(chosen), len(chosen)) for cell in starts]


def best_scored(scores: Sequence[CellScore], count: int) -> list[Cell]:
    """The cells of highest accuracy; of equals those of lower output error, then those that come first."""
    return [score.cell for score in ranked(scores)[:count]]


def ranked(scores: Sequence[CellScore]) -> list[CellScore]:
    """The best first."""
    return sorted(scores, key=lambda score: (-score.accuracy, score.output_error))


def _start(objective: Objective, cell: Cell) -> Lanes:
    """The lane of a cell at its start, its tensors as they come back from a file."""
    lane = objective.lane(middle(cell, objective.combination.search, objective.combination.adapter))
    stored = objective.combination.adapter.rounded(lane.parameters)
    return Lanes([({key: t[None].to(objective.recipe.device) for key, t in stored.items()}, [lane.alpha])])


def _sample(objective: Objective, count: int, images: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive(objective.combination.seed, "score"))
    return torch.randperm(count, generator=generator)[:images]


def _correct(objective: Objective, starts: dict[Cell, Lanes], chosen: torch.Tensor) -> dict[Cell, int]:
    """Right answers of each cell on the chosen images of the validation part."""
    by_base: dict[Base, list[Cell]] = defaultdict(list)
    for cell in starts:
        by_base[objective.bases.of(cell)].append(cell)
    logits = {cell: objective.bases.of(cell).program.bind(lanes) for cell, lanes in starts.items()}
    correct = dict.fromkeys(starts, 0)
    for images, labels in objective.combination.task.val.batches(PASS, chosen):
        for base, own in by_base.items():
            check_stop()
            inputs = base.program.inputs(images.to(objective.recipe.device))
            for cell in own:
                correct[cell] += int((logits[cell](*inputs).argmax(1).cpu() == labels).sum())
    return correct


def _output_errors(objective: Objective, starts: dict[Cell, Lanes]) -> dict[Cell, float]:
    """The mean relative error of each cell's layers."""
    device = objective.recipe.device
    reference, targets = (
        on_device(shared_copy(objective.combination.compressed.reference), device),
        objective.combination.targets,
    )
    models = {cell: _adapted(objective, cell, lanes) for cell, lanes in starts.items()}
    norms, off = dict.fromkeys(targets, 0.0), {cell: dict.fromkeys(targets, 0.0) for cell in starts}

    def compare(name: str) -> Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor], y: torch.Tensor) -> None:
            norms[name] += float(y.double().square().sum())
            for cell, model in models.items():
                off[cell][name] += float((model.get_submodule(name)(*inputs) - y).double().square().sum())

        return hook

    for name in targets:
        reference.get_submodule(name).register_forward_hook(compare(name))
    train = objective.combination.task.train
    for images, _ in train.batches(PASS, _sample(objective, len(train), ERROR_IMAGES)):
        check_stop()
        reference(images.to(device))
    return {
        cell: sum(error / norms[name] for name, error in own.items() if norms[name]) / len(targets)
        for cell, own in off.items()
    }


def _adapted(objective: Objective, cell: Cell, lanes: Lanes) -> nn.Module:
    """The whole model of a cell."""
    model = shared_copy(objective.bases.of(cell).compressed.model)
    attach(model, objective.combination.adapter, lanes)
    return model
