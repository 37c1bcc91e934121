"""Structured pruning by gradients that are accumulated while the model is trained."""

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compress.channels import thin
from pipeline.compress.contract import CompressedModel, LayerStats
from pipeline.compress.layers import sound_matrix
from pipeline.compress.structured_pruning import StructuredPruning, noise_like, packed, training_part
from pipeline.config.registry import COMPRESSIONS
from pipeline.errors import IntegrityError
from pipeline.task.baseline import OPTIMIZERS
from pipeline.task.contract import Part


@COMPRESSIONS.register("prune_gradient")
class PruneGradient(StructuredPruning):
    """Trains the model, and keeps the ``c * out`` output channels of largest accumulated gradient.

    The training is the baseline's: cross-entropy in train mode, dropout on and batch norm learning its statistics, on
    the device of the model. A new optimizer starts after each pruning. Scores are summed over layers that can only
    lose channels together, and over the rows of query, key and value of an attention head.
    """

    trains: ClassVar[bool] = True

    score: Literal["signed", "abs", "taylor"] = "taylor"
    """Of a row, summed over batches: ``sum g``, as published, ``sum |g|``, or ``sum (g w)^2`` (Molchanov et al., 2019,
    arXiv:1906.10771). The first is ranked with its sign: rows of negative sums leave first."""
    when: Literal["after", "once", "steps"] = "after"
    """Prune after the training, once half-way, or in equal ``steps`` spread over it."""
    steps: int = Field(4, ge=1)
    """How many, where ``when = "steps"``."""
    epochs: int = Field(1, ge=1)
    """Passes over the training part."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """As torch has it, but for the learning rate."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate."""
    batch_size: int = Field(64, ge=1)
    """Images a step."""
    seed: int = Field(0, ge=0)
    """Of the order of the images, and of dropout."""

    def compress_model(
        self,
        model: nn.Module,
        targets: Sequence[str],
        stats: Mapping[str, Sequence[LayerStats]],
        train: Part | None = None,
    ) -> CompressedModel:
        part = training_part(self.name, train)
        scores = {
            name: matrix.new_zeros(len(matrix), dtype=torch.float64)
            for name, matrix in ((name, sound_matrix(model, name)) for name in targets)
        }
        # All GPUs, because torch.manual_seed seeds all of them.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
            torch.manual_seed(self.seed)
            trained = self._train(copy.deepcopy(model), part, scores)
        return packed(trained, targets)

    def _train(self, model: nn.Module, part: Part, scores: dict[str, Tensor]) -> nn.Module:
        """Train and prune ``model``; ``scores`` begin at zero, and follow what is left of it."""
        noise, generator = noise_like(model, part), torch.Generator().manual_seed(self.seed)
        # Batch norm has no variance over a last batch of one.
        count = len(part) - (len(part) % self.batch_size == 1 and len(part) > 1)
        batches = math.ceil(count / self.batch_size)
        due, whole = self._due(self.epochs * batches), dict[str, int]()
        optimizer = self._begin(model)
        for epoch in range(self.epochs):
            order = torch.randperm(len(part), generator=generator)[:count]
            losses = []
            for images, labels in part.batches(self.batch_size, order):
                losses.append(self._step(model, optimizer, images.to(noise), labels.to(noise.device), scores))
                share = due.get(epoch * batches + len(losses))
                if share is not None:
                    self._refuse_divergence(losses, epoch)
                    left = functools.partial(self._left_after, share, whole)
                    thinned = thin(model, list(scores), noise, scores, left)
                    model, optimizer = thinned.model, self._begin(thinned.model)
                    scores |= {name: scores[name][rows] for name, rows in thinned.rows.items() if name in scores}
            self._refuse_divergence(losses, epoch)
        return model.eval().requires_grad_(False)

    def _refuse_divergence(self, losses: Sequence[Tensor], epoch: int) -> None:
        mean = float(torch.stack(list(losses)).mean())
        if not math.isfinite(mean):
            raise IntegrityError(
                f"{self.name}: the mean loss is {mean} in epoch {epoch + 1} of its training; lower lr = {self.lr}, or "
                f"choose another optimizer than {self.optimizer}"
            )

    def _due(self, batches: int) -> dict[int, float]:
        """After which batches rows are lost, and which share of those to lose is lost by then."""
        if self.when == "after":
            return {batches: 1.0}
        steps = self.steps if self.when == "steps" else 1
        return {math.ceil(batches * step / (steps + 1)): step / steps for step in range(1, steps + 1)}

    def _begin(self, model: nn.Module) -> torch.optim.Optimizer:
        model.train().requires_grad_(True)
        return OPTIMIZERS[self.optimizer](model.parameters(), lr=self.lr)

    def _step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        scores: Mapping[str, Tensor],
    ) -> Tensor:
        """One batch; its gradients are added to ``scores``."""
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, score in scores.items():
            weight = model.get_submodule(name).get_parameter("weight")
            if weight.grad is not None:
                score += self._importance(weight.grad, weight.detach()).flatten(1).sum(1)
        optimizer.step()
        return loss.detach()

    def _importance(self, gradient: Tensor, weight: Tensor) -> Tensor:
        if self.score == "signed":
            return gradient
        return gradient.abs() if self.score == "abs" else (gradient * weight).square()

    def _left_after(self, share: float, whole: dict[str, int], name: str, units: int) -> int:
        """How many units stay once a share of those to lose is lost; ``whole`` notes how many there were at first."""
        units = whole.setdefault(name, units)
        return units - round(share * (units - self.left(units)))
