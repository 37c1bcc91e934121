"""Structured pruning by gradients that are accumulated while the model is trained."""

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compress.channels import prune_channels
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import weight_matrix
from pipeline.compress.structured_pruning import StructuredPruning
from pipeline.compress.training_compression import TrainingCompression
from pipeline.config.registry import COMPRESSIONS
from pipeline.config.task_spec import TorchOptimizer
from pipeline.errors import IntegrityError, SpecError
from pipeline.task.baseline import TORCH_OPTIMIZERS
from pipeline.task.contract import Part
from pipeline.task.inspection import main_logits
from pipeline.task.training_batches import count_batches, refuse_single_images, training_batches


@COMPRESSIONS.register("prune_gradient")
class PruneGradient(StructuredPruning, TrainingCompression):
    """Trains the model, and keeps the ``c * out`` output channels of largest gradient: with labels and time to train.

    It trains as the baseline does, on the device of the model: cross-entropy, in train mode, with dropout and batch
    statistics. A new optimizer starts after each pruning. Scores are summed over layers that can only lose channels
    together, and over the rows of query, key and value of an attention head.
    """

    score: Literal["signed", "abs", "taylor"] = "taylor"
    """The score of a row, summed over batches: ``sum g`` as published, so that rows with negative sums are removed
    first; ``sum |g|``; or ``sum (g w)^2`` (Molchanov et al., 2019, arXiv:1906.10771)."""
    when: Literal["after", "once", "steps"] = "after"
    """Prune after the training, once half-way, or in equal ``steps`` during it."""
    steps: int = Field(4, ge=1)
    """Number of prunings if ``when = "steps"``."""
    epochs: int = Field(1, ge=1)
    """Passes over the training part."""
    optimizer: TorchOptimizer = "adam"
    """With torch's defaults, except for the learning rate."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate."""
    batch_size: int = Field(64, ge=1)
    """Images per step."""
    seed: int = Field(0, ge=0)
    """Seed of the order of the images and of dropout."""

    def outline(self, model: nn.Module, targets: Sequence[str], train: Part | None = None) -> CompressedModel:
        if train is not None:
            self._refuse_single_images(model, train)
        return super().outline(model, targets, train)

    def _refuse_single_images(self, model: nn.Module, train: Part) -> None:
        refuse_single_images(model, len(train), self.batch_size, f"batch_size of {self.name}")

    def pruned(self, model: nn.Module, targets: Sequence[str], train: Part, noise: Tensor) -> nn.Module:
        weights = {name: weight_matrix(model.get_submodule(name)) for name in targets}
        self.prune(
            model, noise, {name: weight.norm(dim=1) for name, weight in weights.items()}
        )  # or not worth training
        scores = {name: weight.new_zeros(len(weight), dtype=torch.float64) for name, weight in weights.items()}
        # All GPUs are listed, because torch.manual_seed seeds all of them.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
            torch.manual_seed(self.seed)
            return self._train(copy.deepcopy(model), train, noise, scores)

    def _train(self, model: nn.Module, part: Part, noise: Tensor, scores: dict[str, Tensor]) -> nn.Module:
        """The trained and pruned ``model``; ``scores`` are updated, and lose the rows that it loses."""
        generator = torch.Generator().manual_seed(self.seed)
        self._refuse_single_images(model, part)
        batches = count_batches(len(part), self.batch_size)
        schedule, initial_units = self._schedule(self.epochs * batches), dict[str, int]()
        optimizer = self._start_training(model)
        for epoch in range(self.epochs):
            order = torch.randperm(len(part), generator=generator)
            losses = []
            for images, labels in training_batches(part, self.batch_size, order):
                loss = F.cross_entropy(self._logits(model, images.to(noise)), labels.to(noise.device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self._add_importance(model, scores)
                optimizer.step()
                losses.append(loss.detach())
                share = schedule.get(epoch * batches + len(losses))
                if share is not None:
                    self._refuse_divergence(losses, epoch)
                    kept = functools.partial(self._kept_after, share, initial_units)
                    pruned = prune_channels(model, list(scores), noise, scores, kept)
                    model, optimizer = pruned.model, self._start_training(pruned.model)
                    scores |= {name: scores[name][rows] for name, rows in pruned.rows.items() if name in scores}
            self._refuse_divergence(losses, epoch)
        return model.eval().requires_grad_(False)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        try:
            return main_logits(model(images))
        except Exception as error:  # nothing narrower: each architecture raises errors of its own
            raise SpecError(
                f"{self.name} trains the model, which fails in train mode on images {list(images.shape[1:])}: {error}; "
                f"give images of another size, or choose prune_magnitude, which does not train"
            ) from error

    def _refuse_divergence(self, losses: Sequence[Tensor], epoch: int) -> None:
        mean = float(torch.stack(list(losses)).mean())
        if not math.isfinite(mean):
            raise IntegrityError(
                f"{self.name}: the mean loss is {mean} in epoch {epoch + 1} of its training; lower lr = {self.lr}, or "
                f"choose another optimizer than {self.optimizer}"
            )

    def _schedule(self, batches: int) -> dict[int, float]:
        """After which batches channels are removed, and which share of the removals is then done."""
        if self.when == "after":
            return {batches: 1.0}
        steps = self.steps if self.when == "steps" else 1
        return {math.ceil(batches * step / (steps + 1)): step / steps for step in range(1, steps + 1)}

    def _start_training(self, model: nn.Module) -> torch.optim.Optimizer:
        model.train().requires_grad_(True)
        return TORCH_OPTIMIZERS[self.optimizer](model.parameters(), lr=self.lr)

    def _add_importance(self, model: nn.Module, scores: Mapping[str, Tensor]) -> None:
        """Add the gradients of one batch to the scores of the layers' rows."""
        for name, score in scores.items():
            weight = model.get_submodule(name).get_parameter("weight")
            if weight.grad is not None:
                importance = weight.grad
                if self.score != "signed":
                    importance = importance.abs() if self.score == "abs" else (importance * weight.detach()).square()
                score += importance.flatten(1).sum(1)

    def _kept_after(self, share: float, initial_units: dict[str, int], name: str, units: int) -> int:
        """How many units of a layer remain after a share of its removals; ``initial_units`` remembers the first."""
        initial = initial_units.setdefault(name, units)
        return initial - round(share * (initial - self.kept(initial)))
