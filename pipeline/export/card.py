"""The card of a checkpoint: everything known of the exported trial, as a JSON-able table."""

from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.compress.folding import folded_norms
from pipeline.config.combination_spec import PLAIN
from pipeline.environment import versions
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective
from pipeline.results.combination_result import CellResult, CombinationResult, Score
from pipeline.run.winners import Recovered
from pipeline.space import Values


def make_card(objective: Objective, trial: FrozenTrial, got: Recovered, val: Score, test: Score) -> dict[str, Any]:
    """The card of a trial, from its recovered adapter and the adapter's scores on two parts."""
    combination = objective.combination
    values, search = Values.of(trial.params), combination.search
    size = objective.size(values, got.parameters)
    layers = {
        name: {
            "dense_bytes": (layer.dense + layer.bias) // 8,
            **{f"{purpose}_bytes": bits // 8 for purpose, bits in asdict(layer.base).items()},
            "adapter_bytes": layer.adapter // 8,
        }
        for name, layer in size.layers.items()
    }
    return {
        "combination": combination.name,
        "trial": trial.number,
        "task": dict(combination.task.description),
        "method": {
            "compression": combination.spec.compression.complete(),
            **_own_compressions(combination),
            "adapter": combination.adapter.complete(),
            "layers": list(combination.compressed.weights),
            "qkv": combination.spec.qkv,
            **({"folded": folded} if (folded := folded_norms(combination.model)) else {}),
            "ranks": combination.layer_ranks(values.rank),
            "values": dict(trial.params),
            "epochs": search.epochs,
            "schedule": search.schedule.complete(),
            "warmup": search.warmup,
            "loss": search.loss.complete(),
            "augmentation": [one.complete() for one in search.augmentation],
            "best_epoch": got.best_epoch,
            "retrained": got.retrained,
            "seed": trial.user_attrs["seed"],
        },
        "notes": list(combination.compressed.notes),
        "accuracy": {"recovered": {"val": _stated(val), "test": _stated(test)}},
        "size": {
            "dense_bytes": size.dense_bytes,
            "ratio": size.ratio,
            "published_ratio": size.published_ratio(),
            "layers": layers,
        },
        **({"storage": combination.storage.model_dump()} if combination.storage != PLAIN else {}),
        "hashes": dict(combination.task.hashes),
        "versions": versions(),
    }


def _own_compressions(combination: Combination) -> dict[str, Any]:
    """``compressions`` of the layers that have one of their own, by name, if there are any."""
    methods = {name: combination.compression.of_layer(name) for name in combination.targets}
    own = {name: method.complete() for name, method in methods.items() if method != combination.spec.compression}
    return {"compressions": own} if own else {}


def add_study(card: dict[str, Any], study: str, result: CombinationResult, cell: CellResult, chosen_by: str) -> None:
    """Add to a card what only its study knows: references, scores under other seeds, and what was chosen for "auto"."""
    card |= {"study": study, "chosen_by": chosen_by}
    if "auto" in result.facts:
        card["method"]["auto"] = result.facts["auto"]
    references = {"baseline": result.baseline, "compressed": result.compressed, "largest_class": result.largest_class}
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
    return {**asdict(score), "accuracy": score.accuracy, "wilson_95": list(score.interval)}
