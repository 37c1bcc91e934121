"""One combination as a plain Optuna objective: values in, validation accuracy out."""

import functools
from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch

from pipeline.adapt.contract import Draw, blank
from pipeline.cell import Cell
from pipeline.compress.layer_statistics import Statistics
from pipeline.compress.layers import (
    on_device,
)
from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.registry import OPTIMIZERS
from pipeline.config.search_spec import SearchSpec
from pipeline.config.spec import ComputeSpec
from pipeline.config.study_file import load_spec
from pipeline.environment import peak_memory, versions
from pipeline.errors import SpecError
from pipeline.objective.base import Base
from pipeline.objective.combination import Preparation
from pipeline.seeds import derive
from pipeline.space import Values, cells, suggest
from pipeline.task import Task, prepare
from pipeline.train.cache.feature_cache import LIMIT, FeatureCache
from pipeline.train.cut.program import Probe
from pipeline.train.lane import Lane
from pipeline.train.loop import train_epoch
from pipeline.train.recipe import Recipe
from pipeline.train.rows import HELD, Rows, with_tensor
from pipeline.train.teacher import Teacher, teacher_logits

BaseKey = tuple[Cell | None, frozenset[str]]
"""What tells bases apart: the cell whose init moved it, if one did, and the layers that are adapted."""


def make_features(compute: ComputeSpec, device: str, limit: int = LIMIT) -> FeatureCache:
    """The cache of frozen layers that a study asks for."""
    kept = "float32" if compute.cache == "off" else compute.cache
    return FeatureCache(dtype=getattr(torch, kept), device=device, limit=limit)


class Objective(Preparation):
    """Trains one trial of a combination; ``study.optimize(Objective(...), n_trials=20)`` works as any objective does.

    The trial is asked for ``rank``, ``init``, ``alpha``, ``optimizer``, ``lr`` and ``batch_size``; validation accuracy
    is reported after every epoch, and the best of them returned: use ``direction="maximize"``. A pruned trial raises
    ``TrialPruned``. A loss that is not finite gives NaN, which Optuna records as FAIL, the reason in ``reason``.

    Args:
        task: Model, data and baseline.
        combination: What compresses, what adapts, and which layers.
        search: Ranks, inits and ranges.
        compute: How numbers are computed.
        seed: Of all that is drawn; the same seed and values give the same trial.
        device: Where it trains.
        statistics: Layer statistics to share between combinations of one task.
        features: The caches of frozen layers to share between them; made below ``storage/`` where none are given.

    Raises:
        SpecError: A target pattern matches nothing, a rank is above what every target can take, or a budget is out of
            what an allocation can spread.
    """

    def __init__(
        self,
        task: Task,
        combination: CombinationSpec,
        search: SearchSpec,
        compute: ComputeSpec | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        statistics: Statistics | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__(task, combination, search, seed, device, statistics)
        compute, own = compute or ComputeSpec(), self.search
        self.recipe = Recipe(own.epochs, own.schedule, own.warmup, device, compute, own.loss)
        self.features = features or make_features(compute, device)
        self._bases: dict[Hashable, Base] = {}
        self._taught: dict[str, torch.Tensor] = {}

    @classmethod
    def from_file(cls, path: str | Path, combination: str | None = None, device: str = "cpu") -> "Objective":
        """The objective of one combination of a study file: the named one, or the first.

        Args:
            path: A study file, or the name of one in ``studies/``.
            combination: The combination's name.
            device: Where trials are trained.
        """
        spec = load_spec(path)
        chosen = spec.find(combination) if combination else spec.combination[0]
        task = prepare(spec.task, device=device)
        return cls(task, chosen, spec.search, spec.compute, seed=spec.seed, device=device)

    def base(self, cell: Cell) -> Base:
        """The compressed model that the trials of a cell adapt, one for all cells that adapt the same layers.

        A cell whose init moves the base has its own.
        """
        return self._base(self._base_key(cell))

    @property
    def common(self) -> Base:
        """The base of the cells of the highest rank, but for those whose init moves it."""
        return self._base((None, self.adapted(max(self.search.ranks))))

    @property
    def bases(self) -> list[Base]:
        """The bases of all cells but those whose init moves it, one for each set of adapted layers."""
        return [self._base((None, layers)) for layers in dict.fromkeys(map(self.adapted, self.search.ranks))]

    def _base_key(self, cell: Cell) -> BaseKey:
        return cell if self.moves_base(cell) else None, self.adapted(cell.rank)

    def _base(self, key: BaseKey) -> Base:
        cell, layers = key
        with self._lock:
            if key not in self._bases:
                shares = {self._base_key(own) for own in cells(self.search)} | {key}
                self._bases[key] = Base(
                    self.task,
                    self.compressed if cell is None else self.with_moved_base(cell),
                    self.adapter,
                    self.recipe,
                    self.features,
                    functools.partial(self._probes, layers),
                    held=HELD // len(shares),
                )
            return self._bases[key]

    def _probes(self, layers: frozenset[str]) -> Sequence[Sequence[Probe]]:
        own = [rank for rank in self.search.ranks if self.adapted(rank) == layers]
        lowest, highest = min(own), max(own)
        probes = [[self._random(lowest, 0), self._random(lowest, 1)], [self._random(highest, 2)]]
        return [[*probes[0], *probes[1]]] if lowest == highest else probes

    def _random(self, rank: int, seed: int) -> Probe:
        """A lane with random numbers in the place of its parameters, and another alpha each."""
        generator = torch.Generator().manual_seed(seed)
        drawn = blank(self.adapter, self.compressed, self.layer_ranks(rank))
        device = self.device
        lane = {k: torch.randn(t.shape, generator=generator).to(device, t.dtype) for k, t in drawn.items()}
        return lane, float(1 + seed)

    def lane(self, values: Values, *, order_seed: int | None = None) -> Lane:
        """A trial that is ready to be trained; ``order_seed`` takes the place of the study's seed."""
        seed = self.seed if order_seed is None else order_seed
        base = self.base(values.cell)
        draw = Draw(values.alpha, values.extra, derive(seed, "adapter"))
        parameters = self.adapter.begin(base.compressed, self.starts(values, seed), draw)
        searched = {optimizer.name: optimizer for optimizer in self.search.optimizer}
        return Lane(
            parameters,
            values.alpha,
            searched.get(values.optimizer) or OPTIMIZERS.parse(values.optimizer),
            values.lr,
            values.batch_size,
            seed,
            frozen=frozenset(name for name in parameters if self.adapter.is_frozen(name)),
            base=self._base_key(values.cell),
        )

    @cached_property
    def teacher(self) -> Teacher | None:
        """The uncompressed model, where the loss learns from it."""
        return Teacher(on_device(self.task.model, self.device)) if self.recipe.loss.needs_teacher else None

    def lessons(self, base: Base, name: str) -> Rows:
        """The rows of a part, and as their last tensor the teacher's logits, where there is one."""
        if self.teacher is None:
            return base.rows(name)
        with self._lock:
            if name not in self._taught:
                part, device = getattr(self.task, name), self.device
                cache = None if self.recipe.compute.cache == "off" else self.features
                self._taught[name] = teacher_logits(self.teacher, part, device, cache, base.feature_facts(name))
            return with_tensor(base.rows(name), self._taught[name])

    def release(self) -> None:
        """Let go of what is held of each part; it is had again from the cache when it is asked for."""
        with self._lock:
            self._taught.clear()
            for base in self._bases.values():
                base.release()

    def train_epoch(self, lanes: list[Lane]) -> None:
        """Train lanes of one pace for one epoch."""
        base = self._bases[lanes[0].base]
        train, val = self.lessons(base, "train"), self.lessons(base, "val")
        train_epoch(lanes, base.program, train, val, self.recipe)

    def epochs(self, lane: Lane) -> Iterator[int]:
        """Train a lane in a cohort of one; yields the number of each epoch that ended, until the last or a failure."""
        while len(lane.curve) < self.recipe.epochs:
            self.train_epoch([lane])
            if lane.failure is not None:
                return
            yield len(lane.curve)

    def attributes(self, lane: Lane, values: Values) -> dict[str, Any]:
        """What is kept beside a trial's values: plain Python, small, and the same for every trial."""
        facts = self.facts_of(values.cell)
        return {
            "bytes": facts.size.bytes,
            "ratio": facts.size.ratio,
            "layer_bytes": facts.size.layer_bytes,
            "layer_ratio": facts.size.layer_ratio,
            "macs": facts.macs,
            "macs_ratio": facts.dense_macs / facts.macs,
            "trainable": facts.trainable,
            "best_epoch": lane.best_epoch,
            "train_loss": [round(epoch.train_loss, 5) for epoch in lane.curve],
            "val_loss": [round(epoch.val_loss, 5) for epoch in lane.curve],
            "seconds": round(lane.seconds, 3),
            "peak_memory": peak_memory(self.device),
            "device": self.device,
            "seed": lane.seed,
            "split": self.task.hashes["split"],
            "versions": versions(),
            **({"reason": lane.failure} if lane.failure else {}),
        }

    def __call__(self, trial: optuna.Trial) -> float:
        if isinstance(trial, optuna.Trial) and trial.study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            raise SpecError('the objective is an accuracy; create the study with direction="maximize"')
        values = suggest(trial, self.search, self.adapter)
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
