"""After the search: the winner of each cell is tested once, and trained again and tested under other seeds."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import optuna
import torch
from optuna.trial import FrozenTrial
from torch import Tensor, nn

from pipeline.adapt.lanes import Lanes
from pipeline.cell import Cell
from pipeline.compress.layers import real_parameter
from pipeline.errors import NothingUsableError
from pipeline.objective.objective import Objective
from pipeline.results.reading import find_winners
from pipeline.run.failures import Failures
from pipeline.seeds import derive
from pipeline.space import Values, cells
from pipeline.store.kept_adapters import Kept
from pipeline.task.class_counts import score_largest_class
from pipeline.task.parts import PASS
from pipeline.train.cut.program import Logits
from pipeline.train.lane import Lane
from pipeline.train.rows import Rows
from pipeline.wording import cell_name, counted

logger = logging.getLogger(__name__)

_SCORED: WeakKeyDictionary[nn.Module, dict[str, list[int]]] = WeakKeyDictionary()
"""What an uncompressed model scored on each part; it is one object for many combinations of a study. Where norms are
stored in 16 bits it shares no cached outputs with the compressed model, and takes every image whole."""


def score_model(objective: Objective, model: nn.Module, part: str) -> list[int]:
    """``[correct, images]`` of a model without an adapter on one part; frozen layers run at most once."""
    return _score(*objective.bases.common.without_lanes(model, part), objective)


def _score_uncompressed(objective: Objective, part: str) -> list[int]:
    """``[correct, images]`` of the uncompressed model on one part, once for all combinations that have this model."""
    model = objective.combination.model
    known = _SCORED.setdefault(model, {})
    if part not in known:
        known[part] = score_model(objective, model, part)
    return known[part]


def score_adapter(objective: Objective, values: Values, parameters: dict[str, Tensor], part: str) -> list[int]:
    """``[correct, images]`` of the compressed model with the adapter that a trial of these values trained."""
    base = objective.bases.of(values.cell)
    stacked = {name: tensor[None].to(objective.recipe.device) for name, tensor in parameters.items()}
    return _score(base.program.bind(Lanes([(stacked, [values.alpha])])), base.rows(part), objective)


@torch.no_grad()
def _score(logits: Logits, rows: Rows, objective: Objective) -> list[int]:
    like, correct = real_parameter(objective.combination.compressed.model), 0
    for inputs, labels in rows.batches(PASS):
        answers = logits(*(tensor.to(like) for tensor in inputs)).argmax(1)
        correct += int((answers == labels.to(answers.device)).sum())
    return [correct, len(rows)]


@dataclass(frozen=True)
class Recovered:
    """The adapter of a trial at its best epoch.

    It was ``retrained`` if it had not been kept. Convolutions round differently alone than in a cohort, so it may then
    differ slightly from what the trial trained.
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
    """The adapter of a complete trial; if it was not kept, it is trained again, which may fail (NothingUsableError)."""
    values = Values.of(trial.params)
    parameters = kept.load(values.cell, trial.number) if kept else None
    if parameters is not None:
        return Recovered(parameters, trial.value or 0.0, trial.user_attrs["best_epoch"], retrained=False)
    lane = train_alone(objective, values)
    if lane.failure is not None:
        raise NothingUsableError(f"trial {trial.number} was trained again, and failed: {lane.failure}; choose another")
    return Recovered(lane.best_parameters, lane.best, lane.best_epoch, retrained=True)


def measure_references(objective: Objective, study: optuna.Study, part: str) -> None:
    """Measure the references on a part, unless the stored study has their scores.

    They are the uncompressed model, the compressed-only model, and a model that always answers the largest class.
    """
    combination = objective.combination
    references: dict[str, Callable[[], list[int]]] = {
        "baseline": lambda: _score_uncompressed(objective, part),
        "compressed": lambda: score_model(objective, combination.compressed.model, part),
        "largest_class": lambda: score_largest_class(getattr(combination.task, part).labels),
    }
    for key, score in references.items():
        known: dict[str, Any] = study.user_attrs.get(key, {})
        if part not in known:
            study.set_user_attr(key, {**known, part: score()})


def score_winners(objective: Objective, study: optuna.Study, kept: Kept, seeds: int) -> None:
    """Test each cell's winner once, and the same values trained again under ``seeds - 1`` other seeds.

    The stored study keeps the scores. Winners that are tested already are tested again only for more seeds. If some
    cannot be tested, all others are, before an ``IntegrityError``.
    """
    combination = objective.combination
    measure_references(objective, study, "test")
    winners, attributes = find_winners(study), study.user_attrs
    known: dict[Cell, list[dict[str, Any]]] = {}
    for cell, winner in winners.items():
        stored = attributes.get(cell.winner_key, {})
        # Scores of a trial that was the winner then, and is not now, do not count.
        known[cell] = list(stored["seeds"]) if stored.get("trial") == winner.number else []
    untested = [cell for cell in cells(combination.search) if cell in winners and len(known[cell]) < seeds]
    if untested:
        retraining = f", and training them again under {counted(seeds - 1, 'other seed')}" if seeds > 1 else ""
        logger.info(f"{combination.name}: testing the winners of {counted(len(untested), 'cell')}{retraining}")
    failures = Failures()
    for cell in untested:
        label = cell_name(cell.rank, cell.init, combination.search.budget_unit)
        with failures.contained(label, f"{combination.name}: the winner of {label} cannot be tested"):
            for scores in _scores(objective, study, kept, winners[cell], known[cell], seeds):
                study.set_user_attr(cell.winner_key, {"trial": winners[cell].number, "seeds": scores})
    failures.raise_any("winners that cannot be tested")


def _scores(
    objective: Objective, study: optuna.Study, kept: Kept, trial: FrozenTrial, scores: list[dict[str, Any]], seeds: int
) -> Iterator[list[dict[str, Any]]]:
    """Add the scores of a winner that are missing, one table per seed; yields all of them after each."""
    combination, values = objective.combination, Values.of(trial.params)
    images = len(combination.task.val)
    for number in range(len(scores), seeds):
        if number == 0:
            seed, adapter, failure = combination.seed, recover(objective, kept, trial), None
            kept.save_best(study, values.cell, trial.number, adapter.parameters)
            parameters, accuracy = adapter.parameters, adapter.val_accuracy
        else:
            seed = derive(combination.seed, "again", number)
            lane = train_alone(objective, values, order_seed=seed)
            parameters, failure = lane.best_parameters, lane.failure
            accuracy = lane.best if failure is None else 0.0
        if failure is None:
            val = [round(accuracy * images), images]
            scores.append({"seed": seed, "val": val, "test": score_adapter(objective, values, parameters, "test")})
        else:
            scores.append({"seed": seed, "reason": failure})
        yield scores
