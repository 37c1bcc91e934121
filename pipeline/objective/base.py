"""A compressed model that the trials of a combination adapt, and the rows that the trials are fed with."""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from pipeline.adapt.contract import blank
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import on_device
from pipeline.hashes import fingerprint
from pipeline.objective.combination import Combination
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.cut.program import Probe, Program, make_program
from pipeline.train.loop import Recipe
from pipeline.train.rows import ComputedRows, Rows, image_rows
from pipeline.wording import few

PROBE_IMAGES = 3


@dataclass(eq=False)
class Base:
    """A compressed model on its device, which lanes adapt at some layers. Inits that move the base have one per cell.

    The computed rows of a part are held in memory if they take at most ``held`` bytes.
    """

    combination: Combination
    compressed: CompressedModel
    layers: frozenset[str]
    recipe: Recipe
    features: FeatureCache
    held: int
    _rows: dict[str, Rows] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @cached_property
    def program(self) -> Program:
        """How lanes compute; frozen layers run once if the model can be cut behind them."""
        train, adapter = self.combination.task.train, self.combination.adapter
        images, _ = next(iter(train.batches(PROBE_IMAGES, torch.arange(PROBE_IMAGES) % len(train))))
        why_not = 'compute.cache = "off"' if self.recipe.compute.cache == "off" else ""
        if blocks := self.recipe.loss.blocks:
            why_not = f"the loss compares the outputs of {few(blocks)}"
        ranks = [rank for rank in self.combination.search.ranks if self.combination.adapted(rank) == self.layers]
        lowest, highest = min(ranks), max(ranks)
        pair, single = [self._random_lane(lowest, 0), self._random_lane(lowest, 1)], self._random_lane(highest, 2)
        probes = [[*pair, single]] if lowest == highest else [pair, [single]]
        return make_program(self.compressed, adapter, probes, images.to(self.recipe.device), why_not)

    def _random_lane(self, rank: int, seed: int) -> Probe:
        """A lane with random trained parameters, and an alpha that differs from those of other seeds.

        They are so small that the outputs of no layer grow much, for those of deep models would overflow.
        """
        generator = torch.Generator().manual_seed(seed)
        combination, device = self.combination, self.recipe.device
        empty = blank(combination.adapter, combination.compressed, combination.layer_ranks(rank))
        lane = {
            name: t.to(device)
            if combination.adapter.is_frozen(name)
            else (t + torch.randn(t.shape, generator=generator) / math.sqrt(max(1, *t.shape))).to(device, t.dtype)
            for name, t in empty.items()
        }
        return lane, float(1 + seed)

    def source(self, name: str) -> Rows:
        """The cached outputs of the frozen layers before the first trained one for a part; its images without a cut."""
        part = getattr(self.combination.task, name)
        if self.program.cut is None or self.program.cut.stem is None:
            return image_rows(part)
        stem, device = self.program.cut.stem, self.recipe.device
        judge = self.program.without_lanes(self.compressed.model) if name == "val" else None
        rows = self.features.rows(stem, part, self.feature_facts(name), judge and (lambda inputs: judge(*inputs)))
        return rows or ComputedRows(image_rows(part), lambda images: stem(images.to(device)))

    def feature_facts(self, name: str) -> Mapping[str, str]:
        """What identifies the images of a part as they enter the model."""
        task = self.combination.task
        preprocessing = fingerprint(task.description.get("preprocessing"))
        return {**{key: task.hashes[key] for key in ("data", "split")}, "preprocessing": preprocessing, "part": name}

    def rows(self, name: str) -> Rows:
        """What lanes are fed with for a part; contains the frozen product of the first trained layer."""
        with self._lock:
            if name not in self._rows:
                self._rows[name] = self.program.rows(self.source(name), self.recipe.device, self.held)
            return self._rows[name]

    def release(self) -> None:
        """Free the rows that are held in memory; the next use reads them from the cache again."""
        with self._lock:
            self._rows.clear()

    def without_lanes(self, model: nn.Module, name: str) -> tuple[Callable[..., torch.Tensor], Rows]:
        """A function from rows to the logits of a model without adapters, and the rows of a part.

        A model with the same layers before the first trained one continues from the cache; any other model processes
        every image whole.
        """
        model = on_device(model, self.recipe.device)
        if self.program.shares_stem(model):
            return self.program.without_lanes(model), self.source(name)
        return model, image_rows(getattr(self.combination.task, name))
