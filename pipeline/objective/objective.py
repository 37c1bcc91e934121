"""One combination as a plain Optuna objective: values in, validation accuracy out."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import optuna
import torch
from torch import Tensor

from pipeline.adapt.contract import Draw, stored_model
from pipeline.compress.sizes import ModelSize, model_size
from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.registry import OPTIMIZERS
from pipeline.config.search_spec import SearchSpec
from pipeline.config.spec import ComputeSpec
from pipeline.config.study_file import load_spec
from pipeline.environment import peak_memory, plain_modes, versions
from pipeline.errors import SpecError
from pipeline.objective.auto_options import decided
from pipeline.objective.bases import BaseKey, Bases
from pipeline.objective.combination import Combination
from pipeline.seeds import derive
from pipeline.space import Values, suggest
from pipeline.task.contract import Task
from pipeline.task.prepare import prepare
from pipeline.train.cache.feature_cache import LIMIT, FeatureCache
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe, train_epoch


def make_features(compute: ComputeSpec, device: str, limit: int = LIMIT) -> FeatureCache:
    """The cache of frozen layers that ``[compute]`` asks for; all caches take at most ``limit`` bytes on disk."""
    kept = "float32" if compute.cache == "off" else compute.cache
    return FeatureCache(dtype=getattr(torch, kept), device=device, limit=limit)


class Objective:
    """Trains one trial of a combination; ``study.optimize(Objective(...), n_trials=20)`` works as with any objective.

    The trial suggests ``rank``, ``init``, ``alpha``, ``optimizer``, ``lr`` and ``batch_size``. Validation accuracy is
    reported after every epoch, and the best of them is returned, so use ``direction="maximize"``. A pruned trial raises
    ``TrialPruned``. If the loss is not finite, NaN is returned: Optuna records the trial as FAIL, and the attribute
    ``reason`` says why.

    Args:
        task: Model, data and baseline.
        combination: What compresses, what adapts, and which layers.
        search: Ranks, inits and ranges.
        compute: Precision and caches; None for the defaults.
        seed: Seed of all random draws; the same seed and values give the same trial.
        device: Where it trains.

    Raises:
        SpecError: A target pattern matches nothing, a rank is above what every target can take, or a budget is out of
            what an allocation can spread.
    """

    @plain_modes()
    def __init__(
        self,
        task: Task,
        combination: CombinationSpec,
        search: SearchSpec,
        compute: ComputeSpec | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        compute = compute or ComputeSpec()
        prepared = decided(Combination(task, combination, search, seed=seed, device=device))
        self._compose(prepared, compute, make_features(compute, device))

    @classmethod
    def of(cls, combination: Combination, compute: ComputeSpec, features: FeatureCache) -> "Objective":
        """The objective of a combination, with caches that it shares with other combinations of the task."""
        objective = cls.__new__(cls)
        objective._compose(combination, compute, features)
        return objective

    def _compose(self, combination: Combination, compute: ComputeSpec, features: FeatureCache) -> None:
        search, device = combination.search, combination.device
        self.combination = combination
        self.recipe = Recipe(search.epochs, search.schedule, search.warmup, device, compute, search.loss)
        self.bases = Bases(combination, self.recipe, features)

    @property
    def task(self) -> Task:
        """The model, its data and its baseline."""
        return self.combination.task

    @property
    def targets(self) -> list[str]:
        """Names of the layers that are compressed and adapted."""
        return self.combination.targets

    @property
    def compressed_size(self) -> ModelSize:
        """The size of the compressed model, before any adapter."""
        return self.combination.compressed_size

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies hold the arguments; what follows from them is computed again when it is needed."""
        one = self.combination
        made = functools.partial(type(self), seed=one.seed, device=one.device)
        return made, (one.task, one.spec, one.search, self.recipe.compute)

    @classmethod
    def from_file(cls, path: str | Path, combination: str | None = None, device: str = "cpu") -> "Objective":
        """The objective of one combination of a study file.

        Args:
            path: The study file.
            combination: Name of the combination; None for the first.
            device: Where it trains.
        """
        spec = load_spec(Path(path))
        chosen = spec.find(combination) if combination else spec.combination[0]
        task = prepare(spec.task, device=device)
        return cls(task, chosen, spec.search, spec.compute, seed=spec.seed, device=device)

    @plain_modes()
    def lane(self, values: Values, *, order_seed: int | None = None) -> Lane:
        """A trial of these values that is ready to be trained.

        ``order_seed`` is the seed of the batch order and of random starts; None for the seed of the combination.
        """
        combination, cell = self.combination, values.cell
        seed = combination.seed if order_seed is None else order_seed
        draw = Draw(values.alpha, values.extra, derive(seed, "adapter"))
        base = self.bases.of(cell)
        parameters = combination.adapter.begin(base.compressed, combination.starts(values, seed), draw)
        searched = {optimizer.name: optimizer for optimizer in combination.search.optimizer}
        return Lane(
            parameters,
            values.alpha,
            searched.get(values.optimizer) or OPTIMIZERS.parse(values.optimizer),
            values.lr,
            values.batch_size,
            seed,
            frozen=frozenset(name for name in parameters if combination.adapter.is_frozen(name)),
            base=self.bases.key(cell),
        )

    @plain_modes()
    def train_epoch(self, lanes: list[Lane]) -> None:
        """Train lanes that may share a cohort for one epoch, and evaluate them."""
        lead = lanes[0]
        base = self.bases.at(cast(BaseKey, lead.base))
        train = self.bases.training_rows(base, derive(lead.seed, "augmentation", len(lead.curve)))
        train_epoch(lanes, base.program, train, self.bases.rows(base, "val"), self.recipe)

    def epochs(self, lane: Lane) -> Iterator[int]:
        """Train a lane in a cohort of one; yields the number of each finished epoch, until the last or a failure."""
        while len(lane.curve) < self.recipe.epochs:
            self.train_epoch([lane])
            if lane.failure is not None:
                return
            yield len(lane.curve)

    def size(self, values: Values, parameters: Mapping[str, Tensor]) -> ModelSize:
        """The size of the file of a trial, from what it trained; without entropy coding it is that of its cell."""
        combination = self.combination
        if combination.storage.coding == "none" or (combination.adapter.trains and not parameters):
            return combination.facts(values.cell).size
        stored = stored_model(combination.adapter, self.bases.of(values.cell).compressed, parameters)
        return model_size(combination.original, stored, coded=True)

    def attributes(self, lane: Lane, values: Values) -> dict[str, Any]:
        """The attributes of a stored trial: plain Python, small, and the same keys for every trial."""
        facts, device = self.combination.facts(values.cell), self.combination.device
        size = self.size(values, lane.best_parameters)
        return {
            "bytes": size.bytes,
            "ratio": size.ratio,
            "layer_bytes": size.layer_bytes,
            "layer_ratio": size.layer_ratio,
            "macs": facts.macs,
            "macs_ratio": facts.dense_macs / facts.macs,
            "trainable": facts.trainable,
            "best_epoch": lane.best_epoch,
            "train_loss": [round(epoch.train_loss, 5) for epoch in lane.curve],
            "val_loss": [round(epoch.val_loss, 5) for epoch in lane.curve],
            "seconds": round(lane.seconds, 3),
            "peak_memory": peak_memory(device),
            "device": device,
            "seed": lane.seed,
            "split": self.combination.task.hashes["split"],
            "versions": versions(),
            **({"reason": lane.failure} if lane.failure else {}),
        }

    @plain_modes()
    def __call__(self, trial: optuna.Trial) -> float:
        """Train the values that the trial suggests; returns the best validation accuracy of all epochs."""
        if isinstance(trial, optuna.Trial) and trial.study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            raise SpecError('the objective is an accuracy; create the study with direction="maximize"')
        values = suggest(trial, self.combination.search, self.combination.adapter)
        lane = self.lane(values)
        pruned = False
        for epoch in self.epochs(lane):
            trial.report(lane.curve[-1].val_accuracy, epoch)
            pruned = epoch < self.recipe.epochs and trial.should_prune()
            if pruned:
                break
        for key, value in self.attributes(lane, values).items():
            trial.set_user_attr(key, value)
        if pruned:
            raise optuna.TrialPruned(f"after epoch {len(lane.curve)}")
        return float("nan") if lane.failure else lane.best
