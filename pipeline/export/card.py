"""The card of a checkpoint: everything known of the exported trial, as a JSON-able table."""

from typing import Any

from optuna.trial import FrozenTrial

from pipeline.cell import Cell
from pipeline.environment import versions
from pipeline.numbers import wilson
from pipeline.objective.combination import Combination
from pipeline.results.combination_result import CellResult, CombinationResult, Score
from pipeline.run.winners import Recovered, values_of


def make_card(combination: Combination, trial: FrozenTrial, got: Recovered, val: Score, test: Score) -> dict[str, Any]:
    """Build the card of a trained trial.

    Args:
        combination: The trial's combination.
        trial: The stored trial.
        got: Its recovered adapter.
        val: Its score on the validation part.
        test: Its score on the test part.
    """
    values = values_of(trial)
    search = combination.search
    return {
        "combination": combination.name,
        "trial": trial.number,
        "task": dict(combination.task.description),
        "method": {
            "compression": combination.compression.model_dump(mode="json"),
            "adapter": combination.adapter.model_dump(mode="json"),
            "layers": list(combination.compressed.weights),
            "qkv": combination.spec.qkv,
            "ranks": combination.layer_ranks(values.rank),
            "values": dict(trial.params),
            "epochs": search.epochs,
            "schedule": search.schedule.model_dump(mode="json"),
            "best_epoch": got.best_epoch,
            "retrained": got.retrained,
            "seed": trial.user_attrs["seed"],
        },
        "accuracy": {"recovered": {"val": _stated(val), "test": _stated(test)}},
        "size": _sizes(combination, values.cell),
        "hashes": dict(combination.task.hashes),
        "versions": versions(),
    }


def add_study(card: dict[str, Any], study: str, result: CombinationResult, cell: CellResult, chosen_by: str) -> None:
    """Add to a card what only its study knows.

    Args:
        card: The card of ``make_card``, changed in place.
        study: Name of the study.
        result: The results of the trial's combination, with the references that it is compared to.
        cell: The results of the trial's cell, with the winner's scores under other seeds.
        chosen_by: How the trial was chosen, in words.
    """
    card |= {"study": study, "chosen_by": chosen_by}
    references = {"baseline": result.baseline, "compressed": result.compressed}
    card["accuracy"] |= {
        name: {part: _stated(score) for part, score in scores.items()} for name, scores in references.items()
    }
    spread = cell.test_spread()
    if spread and cell.best is not None and cell.best.number == card["trial"]:
        card["accuracy"]["seeds"] = {
            "test": [tested.test.accuracy for tested in cell.tested],
            "mean": spread[0],
            "standard_deviation": spread[1],
        }


def _stated(score: Score) -> dict[str, Any]:
    """An accuracy with its counts and its 95 % Wilson interval."""
    return {
        "correct": score.correct,
        "images": score.images,
        "accuracy": score.accuracy,
        "wilson_95": list(wilson(score.correct, score.images)),
    }


def _sizes(combination: Combination, cell: Cell) -> dict[str, Any]:
    size = combination.facts_of(cell).size
    layers = {
        name: {
            "dense_bytes": (layer.dense + layer.bias) // 8,
            "payload_bytes": layer.base.payload // 8,
            "index_bytes": layer.base.index // 8,
            "scale_bytes": layer.base.scale // 8,
            "bias_bytes": layer.base.bias // 8,
            "adapter_bytes": layer.adapter // 8,
        }
        for name, layer in size.layers.items()
    }
    return {
        "dense_bytes": size.dense_bytes,
        "ratio": size.ratio,
        "published_ratio": size.published_ratio(),
        "layers": layers,
    }
