"""What the trials on one compressed model share: how lanes compute, and the rows that they are fed with."""

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
    """A compressed model on its device. Inits that move the base have one base per rank.

    Args:
        task: Model, data and baseline.
        compressed: The compressed model, before any adapter.
        adapter: The adapter that is trained.
        recipe: The training settings that all lanes share.
        features: The caches of frozen layers.
        probes: Returns stacks of random lanes, which test the program.
        held: Bytes up to which the computed rows of a part are held in memory.
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
        """How lanes compute; frozen layers run once if the model can be cut behind them."""
        chosen = torch.arange(PROBE_IMAGES) % len(self.task.train)
        images, _ = next(iter(self.task.train.batches(PROBE_IMAGES, chosen)))
        why_not = 'compute.cache = "off"' if self.recipe.compute.cache == "off" else ""
        return make_program(self.compressed.model, self.adapter, self.probes(), images.to(self.recipe.device), why_not)

    def source(self, name: str) -> Rows:
        """The cached outputs of the frozen layers before the first trained one for a part; its images without a cut.

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
        """What identifies the images of a part as they enter the model."""
        preprocessing = fingerprint(self.task.description.get("preprocessing"))
        hashes = {key: self.task.hashes[key] for key in ("data", "split")}
        return {**hashes, "preprocessing": preprocessing, "part": name}

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
        """A function from rows to the logits of a model, and the rows.

        A model with the same layers before the first trained one continues from the cache; any other model processes
        every image whole.

        Args:
            model: The compressed or the uncompressed model, without adapters.
            name: ``train``, ``val`` or ``test``.
        """
        model = on_device(model, self.recipe.device)
        if self.program.shares_stem(model):
            return self.program.without_lanes(model), self.source(name)
        return model, image_rows(getattr(self.task, name))
