"""Stored studies as a search leaves them, written by the search's own storage and ledger, with made-up numbers."""

import json
import math
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from pipeline.cell import Cell
from pipeline.paths import baseline_spectra, winner_spectra
from pipeline.results.spectra_file import Course, Matrix, Spectra, write_spectra
from pipeline.results.trained_layers import TrainedLayer, as_text
from pipeline.space import Ask, Values
from pipeline.store.database import Database
from pipeline.store.ledger import Ledger
from pipeline.store.stored_study import create_or_resume, in_chunks, study_name, trial_key, write_long

EPOCHS = 6
IMAGES = {"val": 5400, "test": 10000}
WEIGHTS = "3" * 64
DENSE_BYTES, BASE_BYTES = 940_584, 58_624


@dataclass
class Stored:
    """One stored combination, to be filled trial by trial."""

    storage: Database
    combination: str = "int1-lora"
    name: str = "digits"
    ranks: tuple[int, ...] = (2, 8)
    inits: tuple[str, ...] = ("paper", "svd")
    budget: int = 4
    base_bytes: int = BASE_BYTES
    optimizers: tuple[str, ...] = ("adam", "sgd")
    watched: tuple[str, ...] = ()
    metric: str = "accuracy"
    adapter: str = "lora"
    budgets: str | None = None
    """What ranks are budgets of."""
    asked: int = 0
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        search: dict[str, Any] = {
            "ranks": list(self.ranks),
            "inits": [{"method": init} for init in self.inits],
            "epochs": EPOCHS,
        }
        search["allocation"] = {"by": "gain", "unit": self.budgets} if self.budgets else None
        methods: dict[str, Any] = {
            "targets": ["*"],
            "compression": {"method": "int1", "scale": "row"},
            "adapter": {"method": self.adapter},
        }
        self.study = create_or_resume(
            self.storage,
            study_name(self.name, self.combination),
            {"version": 1, "seed": 0, "search": search, "combination": {"name": self.combination, **methods}},
            {"data": "d" * 64, "split": "5" * 64, "weights": WEIGHTS},
            self._facts(),
        )
        space = {
            "rank": CategoricalDistribution(self.ranks),
            "init": CategoricalDistribution(self.inits),
            "alpha": FloatDistribution(1, 64, log=True),
            "optimizer": CategoricalDistribution(self.optimizers),
            "lr": FloatDistribution(1e-4, 1e-1, log=True),
            "batch_size": CategoricalDistribution((64, 128)),
        }
        self._ledger = Ledger(self.study, space)

    def _facts(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "combination": self.combination,
            "budget": self.budget,
            "task": {
                "model": {"source": "mlp", "hidden": [256, 128], "pretrained": False},
                "data": {"source": "mnist"},
                "split": {"val": 0.09, "test": 0.1, "seed": 0},
                "baseline": {"epochs": 10, "optimizer": "adam", "lr": 0.001, "batch_size": 128},
                "classes": 10,
                "parts": {"train": 54600, "val": 5400, "test": 10000},
                "trained": True,
                "metric": self.metric,
            },
            "targets": 3,
            "spectra": list(self.watched),
            "dense_bytes": DENSE_BYTES,
            "compressed_bytes": self.base_bytes,
            "dense_macs": 234_752,
        }

    def references(self, part: str, original: float, compressed: float) -> None:
        """Write the scores of the original and the compressed-only model on a part."""
        for key, accuracy in {"baseline": original, "compressed": compressed}.items():
            images = IMAGES[part]
            self.study.set_user_attr(
                key, {**self.study.user_attrs.get(key, {}), part: [round(accuracy * images), images]}
            )

    def trial(self, rank: int, init: str, accuracy: float, state: TrialState = TrialState.COMPLETE, **more: Any) -> int:
        """Write one trial that ended; ``accuracy`` is that of its best epoch, the last but one."""
        self.asked += 1
        drawn = random.Random(self.asked)
        optimizer = drawn.choice(self.optimizers)
        values = Values(
            rank, init, drawn.uniform(1, 64), optimizer, 10 ** drawn.uniform(-4, -1), drawn.choice((64, 128))
        )  # type: ignore[arg-type]
        epochs = {TrialState.COMPLETE: EPOCHS, TrialState.PRUNED: 2, TrialState.FAIL: 1}[state]
        ramp = [accuracy - 0.2 * math.exp(-epoch) * (epoch != EPOCHS - 2) for epoch in range(epochs)]
        ramp = [value - 0.002 * (epoch == EPOCHS - 1) for epoch, value in enumerate(ramp)]
        attributes = {**self._attributes(rank, ramp), **more}
        value = accuracy if state == TrialState.COMPLETE else None
        return self._ledger.finish(
            Ask(Cell(rank, init), self.asked, "start-up", values), state, ramp, attributes, value
        )

    def _attributes(self, rank: int, ramp: list[float]) -> dict[str, Any]:
        trainable = rank * (784 + 256 + 256 + 128 + 128 + 10)
        size = self.base_bytes + 4 * trainable
        return {
            "bytes": size,
            "ratio": DENSE_BYTES / size,
            "layer_bytes": size,
            "layer_ratio": DENSE_BYTES / size,
            "macs": 234_752 + trainable,
            "macs_ratio": 234_752 / (234_752 + trainable),
            "trainable": trainable,
            "best_epoch": max(range(len(ramp)), key=ramp.__getitem__) + 1,
            "train_loss": [round(2.2 * (1 - value), 5) for value in ramp],
            "val_loss": [round(2.5 * (1 - value), 5) for value in ramp],
            "seconds": 1.25,
            "peak_memory": 400_000_000,
            "device": "cpu",
            "seed": 0,
            "split": "5" * 64,
            "versions": {"python": "3.11.2", "restora": "0.1.0", "torch": "2.13.0"},
        }

    def running(self, rank: int, init: str) -> None:
        """Write a trial that goes on."""
        self.asked += 1
        values = Values(rank, init, 8.0, "adam", 1e-3, 64)
        asked = datetime.now() - timedelta(seconds=60)
        self._ledger.progress(Ask(Cell(rank, init), self.asked, "sampler", values, asked), [0.5, 0.6])

    def baseline_spectra(self) -> None:
        """Write the spectra of a baseline's training, ten epochs long."""
        courses = tuple(course("W", layer, 10) for layer in self.watched)
        write_spectra(baseline_spectra(WEIGHTS), Spectra(of=WEIGHTS, values=64, courses=courses))

    def winner_spectra(self, rank: int, init: str, number: int) -> None:
        """Write the spectra of a winner's training, which begins with B = 0."""
        key = trial_key(self.study.user_attrs["id"], number)
        products = [_zero_start(course("s B A", layer, EPOCHS, values=rank)) for layer in self.watched]
        courses = [*products, *(course("Q + s B A", layer, EPOCHS) for layer in self.watched)]
        path = winner_spectra(self.name, self.combination, rank, init)
        write_spectra(path, Spectra(of=key, values=64, courses=tuple(courses)))

    def layers(self, *names: str, cells: dict[str, dict[str, int]] | None = None) -> None:
        """Write the sizes of compressed layers, the first of 1000 weights, each next of 1000 more.

        Args:
            names: The layers.
            cells: Sizes in the cells whose init moves the base, by the cell's name; the same for every layer.
        """
        sizes = [
            {
                "name": name,
                "dense": 4000 * place + 400,
                "payload": 125 * place,
                "index": 0,
                "scale": 40,
                "bias": 400,
                "adapter": {str(rank): 80 * rank for rank in self.ranks},
                **({"cells": cells} if cells else {}),
            }
            for place, name in enumerate(names, start=1)
        ]
        for key, value in in_chunks("layers", json.dumps(sizes)).items():
            self.study.set_user_attr(key, value)

    def trained_layers(self, rank: int, init: str, number: int, *names: str, moved: float | None = None) -> None:
        """Write what training made of compressed layers: each next one has 1000 weights more, and a larger error."""
        layers = [
            TrainedLayer(name, 1000 * place, 1320 * place, 2560 * rank, 0.05 * place, 0.04 * place, moved)
            for place, name in enumerate(names, start=1)
        ]
        write_long(self.study, Cell(rank, init).layers_key, as_text(number, layers))

    def test(self, rank: int, init: str, number: int, *accuracies: float, failed: dict[int, str] | None = None) -> None:
        """Write the test accuracies of a winner, one a seed, and why training it again failed, by seed."""
        value = self.study.trials[number].value
        val = [round((value or 0.0) * IMAGES["val"]), IMAGES["val"]]
        seeds = [{"seed": seed, "val": val, "test": [round(a * 10_000), 10_000]} for seed, a in enumerate(accuracies)]
        seeds += [{"seed": seed, "reason": reason} for seed, reason in (failed or {}).items()]
        self.study.set_user_attr(Cell(rank, init).winner_key, {"trial": number, "seeds": seeds})


def course(matrix: Matrix, layer: str, epochs: int, values: int = 20) -> Course:
    """A made-up course: a spectrum that falls the steeper the longer it is trained."""
    spectra = [[math.exp(-0.05 * (1 + epoch) * j) for j in range(values)] for epoch in range(epochs + 1)]
    shares = tuple(tuple(value / sum(spectrum) for value in spectrum) for spectrum in spectra)
    ranks = tuple(math.exp(-sum(p * math.log(p) for p in spectrum)) for spectrum in shares)
    return Course(matrix=matrix, layer=layer, shares=shares, effective_rank=ranks)


def _zero_start(course: Course) -> Course:
    shares = ((0.0,) * len(course.shares[0]), *course.shares[1:])
    return course.model_copy(update={"shares": shares, "effective_rank": (0.0, *course.effective_rank[1:])})


def finish_study(stored: Stored, lift: float = 0.0) -> None:
    """Fill every cell, a failed trial among the first's, and test the winners under two seeds, record their spectra."""
    stored.references("val", 0.981, 0.42 + lift)
    stored.layers(*(stored.watched or ("fc1", "fc2")))
    for place, init in enumerate(stored.inits):
        for rank in stored.ranks:
            top = 0.976 + lift - 0.06 / rank + 0.004 * place
            numbers = [stored.trial(rank, init, top - 0.004 * step) for step in (2, 0, 1)]
            stored.trial(rank, init, top - 0.2, TrialState.PRUNED)
            stored.test(rank, init, numbers[1], top - 0.001, top - 0.003)
            stored.trained_layers(rank, init, numbers[1], *(stored.watched or ("fc1", "fc2")))
            if stored.watched:
                stored.baseline_spectra()
                stored.winner_spectra(rank, init, numbers[1])
    stored.trial(stored.ranks[0], stored.inits[0], 0.1, TrialState.FAIL, reason="loss is not finite <epoch 1>")
    stored.references("test", 0.98, 0.41 + lift)
