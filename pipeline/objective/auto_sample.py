"""What candidates are compared on before training: training images, and the uncompressed model's outputs for them."""

import math

import torch
from torch import Tensor, nn

from pipeline.compress.layers import on_device
from pipeline.guard import check_stop
from pipeline.objective.base import Base
from pipeline.objective.combination import Combination
from pipeline.seeds import derive
from pipeline.task.parts import PASS
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.cut.program import Logits, Program
from pipeline.train.loop import Recipe
from pipeline.train.losses.contract import divergence
from pipeline.train.rows import ComputedRows, Rows, TensorRows

AUTO_IMAGES = 512
"""Images of the training part on which candidates are compared, the first of a seeded permutation."""


class Sample:
    """Training images, and how far the outputs of models are from the uncompressed model's on them.

    The layers before the first target are the same in all candidates, so their outputs are computed once, and held in
    memory where they fit. ``combination`` is that of the first candidate.
    """

    def __init__(self, combination: Combination) -> None:
        train, self.device = combination.task.train, combination.device
        generator = torch.Generator().manual_seed(derive(combination.seed, "auto"))
        order = torch.randperm(len(train), generator=generator)[:AUTO_IMAGES]
        images, labels = next(iter(train.batches(AUTO_IMAGES, order)))
        self._images = TensorRows([images.to(self.device)], labels)
        self.recipe, self.features = Recipe(1, device=self.device), FeatureCache(device=self.device)
        layers = combination.adapted(max(combination.search.ranks))
        self._first = Base(combination, combination.compressed, layers, self.recipe, self.features, 0).program
        self._stem = self._stem_of(self._first)
        self._stem = self._stem.held() if isinstance(self._stem, ComputedRows) else self._stem
        self._teacher = self._logits(*self._plain(on_device(combination.model, self.device)))

    def of_model(self, model: nn.Module) -> float:
        """The mean KL divergence of a model's outputs to the uncompressed model's, in nats; infinite if not finite."""
        return self._divergence(*self._plain(model))

    def of_lane(self, program: Program, logits: Logits) -> float:
        """The same of a lane of a program: of the function ``logits`` that its tensors are bound to."""
        stem = self._stem if self._shares(program.model) else self._stem_of(program)
        return self._divergence(logits, program.rows(stem, limit=0))

    def _stem_of(self, program: Program) -> Rows:
        """The outputs of a program's frozen layers, computed when they are read; the images if there are none."""
        stem = program.cut.stem if program.cut else None
        return self._images if stem is None else ComputedRows(self._images, stem)

    def _shares(self, model: nn.Module) -> bool:
        """Whether the layers of a model before the first target are those of the first candidate."""
        return self._stem is not self._images and self._first.shares_stem(model)

    def _plain(self, model: nn.Module) -> tuple[Logits, Rows]:
        """The function from rows to the logits of a model without lanes, and its rows."""
        return (self._first.without_lanes(model), self._stem) if self._shares(model) else (model, self._images)

    def _divergence(self, logits: Logits, rows: Rows) -> float:
        found = float(divergence(self._logits(logits, rows)[None], self._teacher, 1.0))
        return found if math.isfinite(found) else math.inf

    @torch.no_grad()
    def _logits(self, logits: Logits, rows: Rows) -> Tensor:
        """The logits ``[n, C]``, in float64."""
        parts = []
        for inputs, _ in rows.batches(PASS):
            check_stop()
            parts.append(logits(*inputs).double().cpu())
        return torch.cat(parts)
