"""After the search: the winner of each cell by validation, tested once, and trained again under other seeds."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial
from torch import Tensor, nn

from pipeline.adapt.lanes import Lanes
from pipeline.cell import Cell
from pipeline.errors import NothingUsableError
from pipeline.objective.objective import Objective
from pipeline.results.reading import find_winners
from pipeline.seeds import derive
from pipeline.space import Values, cells
from pipeline.store.kept_adapters import Kept
from pipeline.train.cut.program import Logits
from pipeline.train.lane import Lane
from pipeline.train.rows import Rows
from pipeline.wording import counted

logger = logging.getLogger(__name__)


def values_of(trial: FrozenTrial) -> Values:
    return Values.of(trial.params)


PASS = 256
"""Images in one pass of a score."""


def score_model(objective: Objective, model: nn.Module, part: str) -> list[int]:
    """``[correct, images]`` of a model without an adapter on one part; frozen layers run at most once."""
    return _score(*objective.bases.common.without_lanes(model, part), objective)


def score_adapter(objective: Objective, values: Values, parameters: dict[str, Tensor], part: str) -> list[int]:
    """``[correct, images]`` of the compressed model of some values with an adapter on one part."""
    base = objective.bases.of(values.cell)
    stacked = {name: tensor[None].to(objective.recipe.device) for name, tensor in parameters.items()}
    return _score(base.program.bind(Lanes([(stacked, [values.alpha])])), base.rows(part), objective)


@torch.no_grad()
def _score(logits: Logits, rows: Rows, objective: Objective) -> list[int]:
    like, correct = next(objective.combination.compressed.model.parameters()), 0
    for inputs, labels in rows.batches(PASS):
        answers = logits(*(tensor.to(like) for tensor in inputs)).argmax(1)
        correct += int((answers == labels.to(answers.device)).sum())
    return [correct, len(rows)]


@dataclass(frozen=True)
class Recovered:
    """The adapter of a trial at its best epoch.

    Args:
        parameters: What was trained, by name.
        val_accuracy: Its accuracy on the validation part.
        best_epoch: The epoch, from 1.
        retrained: Whether it was trained again, because it had not been kept. Alone or in other company, lanes of
            convolutions round otherwise, so it may differ a little from the trial whose values it has.
    """

    parameters: dict[str, Tensor]
    val_accuracy: float
    best_epoch: int
    retrained: bool


def train_alone(objective: Objective, values: Values, *, order_seed: int | None = None) -> Lane:
    """Train one set of values to the end, in a cohort of one."""
    lane = objective.lane(values, order_seed=order_seed)
    for _ in objective.epochs(lane):
        pass
    return lane


def recover(objective: Objective, kept: Kept | None, trial: FrozenTrial) -> Recovered:
    """The adapter of a complete trial: the kept one, or trained again where it is not kept.

    Raises:
        NothingUsableError: It was trained again, and failed.
    """
    values = values_of(trial)
    parameters = kept.load(values.cell, trial.number) if kept else None
    if parameters is not None:
        return Recovered(parameters, trial.value or 0.0, trial.user_attrs["best_epoch"], retrained=False)
    lane = train_alone(objective, values)
    if lane.failure is not None:
        raise NothingUsableError(f"trial {trial.number} was trained again, and failed: {lane.failure}; choose another")
    return Recovered(lane.best_parameters, lane.best, lane.best_epoch, retrained=True)


def measure_references(objective: Objective, study: optuna.Study, parts: Sequence[str]) -> None:
    """Measure the uncompressed and the only compressed model on those parts where the stored study lacks it."""
    for key, model in {
        "baseline": objective.combination.model,
        "compressed": objective.combination.compressed.model,
    }.items():
        known: dict[str, Any] = study.user_attrs.get(key, {})
        missing = {part: score_model(objective, model, part) for part in parts if part not in known}
        if missing:
            study.set_user_attr(key, {**known, **missing})


def score_winners(objective: Objective, study: optuna.Study, kept: Kept, seeds: int) -> None:
    """Read the test part once for each cell's winner, and for the same values under ``seeds - 1`` other seeds.

    A winner that was tested before is not tested again, unless more seeds are asked for; where none is left, nothing is
    said.
    """
    measure_references(objective, study, ["test"])
    winners, attributes = find_winners(study), study.user_attrs
    known = {cell: _tested(attributes, cell, trial) for cell, trial in winners.items()}
    untested = [cell for cell in cells(objective.combination.search) if cell in winners and len(known[cell]) < seeds]
    if untested:
        again = f", and training them again under {counted(seeds - 1, 'other seed')}" if seeds > 1 else ""
        logger.info(f"{objective.combination.name}: testing the winners of {counted(len(untested), 'cell')}{again}")
    for cell in untested:
        trial, scores = winners[cell], known[cell]
        values = values_of(trial)
        if not scores:
            got = recover(objective, kept, trial)
            kept.save_best(study, cell, trial.number, got.parameters)
            scores.append(_of_seed(objective, got.parameters, values, objective.combination.seed, got.val_accuracy))
            study.set_user_attr(cell.winner_key, {"trial": trial.number, "seeds": scores})
        for number in range(len(scores), seeds):
            seed = derive(objective.combination.seed, "again", number)
            lane = train_alone(objective, values, order_seed=seed)
            if lane.failure is None:
                scores.append(_of_seed(objective, lane.best_parameters, values, seed, lane.best))
            else:
                scores.append({"seed": seed, "reason": lane.failure})
            study.set_user_attr(cell.winner_key, {"trial": trial.number, "seeds": scores})


def _tested(attributes: Mapping[str, Any], cell: Cell, winner: FrozenTrial) -> list[dict[str, Any]]:
    """What is known of a cell's winner, a table a seed; nothing where another trial was the winner then."""
    known: dict[str, Any] = attributes.get(cell.winner_key, {})
    return list(known["seeds"]) if known.get("trial") == winner.number else []


def _of_seed(
    objective: Objective, parameters: dict[str, Tensor], values: Values, seed: int, val_accuracy: float
) -> dict[str, Any]:
    images = len(objective.combination.task.val)
    return {
        "seed": seed,
        "val": [round(val_accuracy * images), images],
        "test": score_adapter(objective, values, parameters, "test"),
    }
