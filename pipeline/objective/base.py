"""What trials of one compressed model have in common: how lanes compute on it, and what they are fed with."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from pipeline.adapt.contract import Adapter
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import on_device
from pipeline.hashes import fingerprint
from pipeline.task.contract import Task
from pipeline.task.parts import Part
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.cut.program import Probe, Program, make_program
from pipeline.train.recipe import Recipe
from pipeline.train.rows import HELD, ComputedRows, Rows, image_rows

PROBE_IMAGES = 3


@dataclass(eq=False)
class Base:
    """A compressed model on its device; an init that moves the base has one of its own for each rank.

    Args:
        task: Model, data and baseline.
        compressed: The compressed model, before any adapter.
        adapter: What is trained.
        recipe: What all lanes share.
        features: The caches of frozen layers.
        probes: Gives stacks of random lanes to try its program with.
        held: Bytes of one part up to which computed rows are held in memory.
    """

    task: Task
    compressed: CompressedModel
    adapter: Adapter
    recipe: Recipe
    features: FeatureCache
    probes: Callable[[], Sequence[Sequence[Probe]]]
    held: int = HELD
    _rows: dict[str, Rows] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @cached_property
    def program(self) -> Program:
        """How lanes compute: what is the same in every trial is had once, where the model can be cut."""
        chosen = torch.arange(PROBE_IMAGES) % len(self.task.train)
        images, _ = next(iter(self.task.train.batches(PROBE_IMAGES, chosen)))
        why_not = 'compute.cache = "off"' if self.recipe.compute.cache == "off" else ""
        return make_program(self.compressed.model, self.adapter, self.probes(), images.to(self.recipe.device), why_not)

    def source(self, name: str) -> Rows:
        """What the frozen layers before the first trained one give for a part, from the cache; or its images.

        Args:
            name: ``train``, ``val`` or ``test``.
        """
        part: Part = getattr(self.task, name)
        if self.program.cut is None or self.program.cut.stem is None:
            return image_rows(part)
        stem, device = self.program.cut.stem, self.recipe.device
        judge = self.program.without_lanes(self.compressed.model) if name == "val" else None
        rows = self.features.rows(stem, part, self.feature_facts(name), judge and (lambda inputs: judge(*inputs)))
        return rows or ComputedRows(image_rows(part), lambda images: stem(images.to(device)))

    def feature_facts(self, name: str) -> Mapping[str, str]:
        """What tells a part's images from all others, as they enter the model."""
        preprocessing = fingerprint(self.task.description.get("preprocessing"))
        hashes = {key: self.task.hashes[key] for key in ("data", "split")}
        return {**hashes, "preprocessing": preprocessing, "part": name}

    def rows(self, name: str) -> Rows:
        """What lanes are fed with for a part: also the frozen product of the first trained layer is there once."""
        with self._lock:
            if name not in self._rows:
                self._rows[name] = self.program.rows(self.source(name), self.recipe.device, self.held)
            return self._rows[name]

    def release(self) -> None:
        """Let go of what is held of each part; it is had again from the cache when it is asked for."""
        with self._lock:
            self._rows.clear()

    def without_lanes(self, model: nn.Module, name: str) -> tuple[Callable[..., torch.Tensor], Rows]:
        """The logits of a model of this architecture or the task's, and what they are computed from.

        A model whose layers before the first trained one are the same goes on from the cache; any other takes every
        image through all of it.
        """
        model = on_device(model, self.recipe.device)
        if self.program.shares_stem(model):
            return self.program.without_lanes(model), self.source(name)
        return model, image_rows(getattr(self.task, name))
