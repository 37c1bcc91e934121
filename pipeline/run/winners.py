"""After the search: the winner of each cell is tested once, and trained again and tested under other seeds."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial
from torch import Tensor, nn

from pipeline.adapt.lanes import Lanes
from pipeline.cell import Cell
from pipeline.errors import IntegrityError, NothingUsableError
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

PASS = 256
"""Images per pass of a test."""


def values_of(trial: FrozenTrial) -> Values:
    """The values of a stored trial."""
    return Values.of(trial.params)


def score_model(objective: Objective, model: nn.Module, part: str) -> list[int]:
    """``[correct, images]`` of a model without an adapter on one part; frozen layers run at most once."""
    return _score(*objective.bases.common.without_lanes(model, part), objective)


def score_adapter(objective: Objective, values: Values, parameters: dict[str, Tensor], part: str) -> list[int]:
    """``[correct, images]`` of the compressed model with an adapter on one part.

    Args:
        objective: The objective of the combination.
        values: The values of the trial that trained the adapter.
        parameters: The adapter's tensors, by name.
        part: ``train``, ``val`` or ``test``.
    """
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
        parameters: The adapter's tensors, by name.
        val_accuracy: Its accuracy on the validation part.
        best_epoch: The best epoch, counted from 1.
        retrained: Whether it was trained again because it had not been kept. Convolutions round differently alone than
            in a cohort, so it may differ slightly from what the trial trained.
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
    """The adapter of a complete trial; it is trained again if it was not kept.

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
    """Measure the uncompressed and the compressed-only model on those parts that the stored study lacks."""
    combination = objective.combination
    for key, model in (("baseline", combination.model), ("compressed", combination.compressed.model)):
        known: dict[str, Any] = study.user_attrs.get(key, {})
        missing = {part: score_model(objective, model, part) for part in parts if part not in known}
        if missing:
            study.set_user_attr(key, {**known, **missing})


def score_winners(objective: Objective, study: optuna.Study, kept: Kept, seeds: int) -> None:
    """Test each cell's winner once, and the same values trained again under ``seeds - 1`` other seeds.

    Winners that are tested already are tested again only if more seeds are asked for.

    Args:
        objective: The objective of the combination.
        study: Its stored study, which holds the scores.
        kept: Its kept adapters.
        seeds: Scores per winner.

    Raises:
        IntegrityError: Some winners could not be tested; all others are.
    """
    combination = objective.combination
    measure_references(objective, study, ["test"])
    winners, attributes = find_winners(study), study.user_attrs
    known = {cell: _known_scores(attributes, cell, trial) for cell, trial in winners.items()}
    untested = [cell for cell in cells(combination.search) if cell in winners and len(known[cell]) < seeds]
    if untested:
        retraining = f", and training them again under {counted(seeds - 1, 'other seed')}" if seeds > 1 else ""
        logger.info(f"{combination.name}: testing the winners of {counted(len(untested), 'cell')}{retraining}")
    failures = []
    for cell in untested:
        try:
            for scores in _scores(objective, study, kept, winners[cell], known[cell], seeds):
                study.set_user_attr(cell.winner_key, {"trial": winners[cell].number, "seeds": scores})
        except NothingUsableError as error:
            failures.append(f"{cell}: {error}")
            logger.error(f"{combination.name}: the winner of {cell} cannot be tested: {error}")
    if failures:
        raise IntegrityError(f"winners that cannot be tested: {'; '.join(failures)}")


def _scores(
    objective: Objective, study: optuna.Study, kept: Kept, trial: FrozenTrial, scores: list[dict[str, Any]], seeds: int
) -> Iterator[list[dict[str, Any]]]:
    """Add the scores of a winner that are missing; yields all of them after each."""
    values, seed = values_of(trial), objective.combination.seed
    if not scores:
        adapter = recover(objective, kept, trial)
        kept.save_best(study, values.cell, trial.number, adapter.parameters)
        scores.append(_score_of_seed(objective, values, seed, adapter.parameters, adapter.val_accuracy))
        yield scores
    for number in range(len(scores), seeds):
        other_seed = derive(seed, "again", number)
        lane = train_alone(objective, values, order_seed=other_seed)
        if lane.failure is None:
            scores.append(_score_of_seed(objective, values, other_seed, lane.best_parameters, lane.best))
        else:
            scores.append({"seed": other_seed, "reason": lane.failure})
        yield scores


def _known_scores(attributes: Mapping[str, Any], cell: Cell, winner: FrozenTrial) -> list[dict[str, Any]]:
    """The stored scores of a cell's winner, one table per seed; empty if another trial was the winner then."""
    known: dict[str, Any] = attributes.get(cell.winner_key, {})
    return list(known["seeds"]) if known.get("trial") == winner.number else []


def _score_of_seed(
    objective: Objective, values: Values, seed: int, parameters: dict[str, Tensor], val_accuracy: float
) -> dict[str, Any]:
    images = len(objective.combination.task.val)
    return {
        "seed": seed,
        "val": [round(val_accuracy * images), images],
        "test": score_adapter(objective, values, parameters, "test"),
    }
