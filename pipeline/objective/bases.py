"""The compressed models that the trials of a combination adapt, and the data that the trials are fed with."""

import functools
import threading
from collections.abc import Sequence
from functools import cached_property

import torch

from pipeline.adapt.contract import blank
from pipeline.cell import Cell
from pipeline.compress.layers import on_device
from pipeline.objective.base import Base
from pipeline.objective.combination import Combination
from pipeline.space import cells
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.cut.program import Probe
from pipeline.train.recipe import Recipe
from pipeline.train.rows import HELD, Rows, with_tensor
from pipeline.train.teacher import Teacher, teacher_logits

BaseKey = tuple[Cell | None, frozenset[str]]
"""Identifies a base: the cell whose init moved it, or None; and the names of the layers that are adapted."""


class Bases:
    """Makes each base when it is first asked for, and shares it among all cells that adapt the same layers.

    A cell whose init moves the base has a base of its own.

    Args:
        combination: The compression and the adapter.
        recipe: What all trials share in training.
        features: The caches of frozen layers.
    """

    def __init__(self, combination: Combination, recipe: Recipe, features: FeatureCache) -> None:
        self.combination, self.recipe, self.features = combination, recipe, features
        self._bases: dict[BaseKey, Base] = {}
        self._logits: dict[str, torch.Tensor] = {}
        self._lock = threading.RLock()

    def of(self, cell: Cell) -> Base:
        """The base that the trials of a cell adapt."""
        return self.at(self.key(cell))

    def key(self, cell: Cell) -> BaseKey:
        """Identifies the base of a cell; the lanes of a cohort have the same key."""
        combination = self.combination
        return cell if combination.moves_base(cell) else None, combination.adapted(cell.rank)

    @property
    def common(self) -> Base:
        """The base of the cells of the highest rank, except those whose init moves it."""
        return self.at((None, self.combination.adapted(max(self.combination.search.ranks))))

    @property
    def shared(self) -> list[Base]:
        """The bases of all cells except those whose init moves it; one for each set of adapted layers."""
        layer_sets = dict.fromkeys(map(self.combination.adapted, self.combination.search.ranks))
        return [self.at((None, layers)) for layers in layer_sets]

    def at(self, key: BaseKey) -> Base:
        """The base of a key."""
        cell, layers = key
        combination = self.combination
        with self._lock:
            if key not in self._bases:
                count = len({self.key(cell) for cell in cells(combination.search)} | {key})
                self._bases[key] = Base(
                    combination.task,
                    combination.compressed if cell is None else combination.with_moved_base(cell),
                    combination.adapter,
                    self.recipe,
                    self.features,
                    functools.partial(self._probes, layers),
                    held=HELD // count,
                )
            return self._bases[key]

    def _probes(self, layers: frozenset[str]) -> Sequence[Sequence[Probe]]:
        """Stacks of random lanes of the lowest and the highest rank that adapt these layers."""
        ranks = [rank for rank in self.combination.search.ranks if self.combination.adapted(rank) == layers]
        lowest, highest = min(ranks), max(ranks)
        pair, single = [self._random_lane(lowest, 0), self._random_lane(lowest, 1)], self._random_lane(highest, 2)
        return [[*pair, single]] if lowest == highest else [pair, [single]]

    def _random_lane(self, rank: int, seed: int) -> Probe:
        """A lane with random parameters, and an alpha that differs from those of other seeds."""
        generator = torch.Generator().manual_seed(seed)
        combination, device = self.combination, self.recipe.device
        empty = blank(combination.adapter, combination.compressed, combination.layer_ranks(rank))
        lane = {name: torch.randn(t.shape, generator=generator).to(device, t.dtype) for name, t in empty.items()}
        return lane, float(1 + seed)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The uncompressed model, if the loss learns from it."""
        model = self.combination.task.model
        return Teacher(on_device(model, self.recipe.device)) if self.recipe.loss.needs_teacher else None

    def rows(self, base: Base, name: str) -> Rows:
        """What lanes on a base are fed with for a part; the teacher's logits are the last tensor, if there is one.

        Args:
            base: The base.
            name: ``train``, ``val`` or ``test``.
        """
        if self.teacher is None:
            return base.rows(name)
        with self._lock:
            if name not in self._logits:
                part, device = getattr(self.combination.task, name), self.recipe.device
                cache = None if self.recipe.compute.cache == "off" else self.features
                self._logits[name] = teacher_logits(self.teacher, part, device, cache, base.feature_facts(name))
            return with_tensor(base.rows(name), self._logits[name])

    def release(self) -> None:
        """Free the rows that are held in memory; the next use reads them from the cache again."""
        with self._lock:
            self._logits.clear()
            for base in self._bases.values():
                base.release()
