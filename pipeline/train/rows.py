"""The inputs of lanes: one row per image in each of some tensors, in memory, mapped from disk, or streamed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.seeds import derive
from pipeline.task.augmentations.contract import Augmenter
from pipeline.task.contract import Part
from pipeline.task.metrics.agreement import PredictedPart
from pipeline.task.parts import DatasetPart, TensorPart

Inputs = tuple[Tensor, ...]
"""Tensors ``[n, ...]`` with one row per image."""
HELD = 2**30
"""The most bytes of computed rows of one part that are held in memory: 1,000 logits of 268,000 images. Larger ones are
computed for every batch, once for all lanes."""
BATCH = 256
"""Images per batch when all rows of a part are computed."""


class Stem(nn.Module):
    """A model as the stem of a feature cache: its output is a tuple, and ``code`` describes its calls."""

    def __init__(self, model: nn.Module, code: str) -> None:
        super().__init__()
        self.model, self.code = model, code

    def forward(self, images: Tensor) -> Inputs:
        return (self.model(images),)


class Rows(Protocol):
    """The rows of one part and its labels. Several threads may read at once; nobody changes them."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield ``(tensors [n, ...], labels [n])``, in the order of the indices ``order`` if given.

        The last batch may be smaller than ``batch_size``.
        """


class TensorRows:
    """Rows of tensors ``[N, ...]`` in memory, or mapped from disk, and their labels ``[N]``."""

    def __init__(self, tensors: Sequence[Tensor], labels: Tensor) -> None:
        self.tensors, self.labels = tuple(tensors), labels

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        tensors = (*self.tensors, self.labels)
        for start in range(0, len(self) if order is None else len(order), batch_size):
            if order is None:
                *inputs, labels = (tensor[start : start + batch_size] for tensor in tensors)
            else:
                indices = order[start : start + batch_size]
                *inputs, labels = (tensor.index_select(0, indices.to(tensor.device)) for tensor in tensors)
            yield tuple(inputs), labels

    def to(self, device: str, limit: int = HELD) -> "TensorRows":
        """The same rows on a device; these rows themselves if they have more than ``limit`` bytes."""
        if sum(tensor.nbytes for tensor in self.tensors) > limit:
            return self
        return TensorRows([tensor.to(device) for tensor in self.tensors], self.labels.to(device))


@dataclass(eq=False)
class _StreamedRows:
    part: Part

    def __len__(self) -> int:
        return len(self.part)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        for images, labels in self.part.batches(batch_size, order):
            yield (images,), labels


def image_rows(part: Part) -> Rows:
    whole = part.in_memory() if isinstance(part, DatasetPart | PredictedPart) else part
    return TensorRows([whole.images], whole.labels) if type(whole) is TensorPart else _StreamedRows(part)


def with_tensor(rows: Rows, extra: Tensor) -> Rows:
    """The same rows, with those of another tensor ``[N, ...]`` as the last tensor of each batch."""
    if isinstance(rows, TensorRows):
        return TensorRows([*rows.tensors, extra], rows.labels)
    return _ExtendedRows(rows, extra)


@dataclass(eq=False)
class _ExtendedRows:
    rows: Rows
    extra: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        order = torch.arange(len(self)) if order is None else order
        indices = torch.split(order.to(self.extra.device), batch_size)
        for (inputs, labels), chosen in zip(self.rows.batches(batch_size, order), indices, strict=True):
            yield (*inputs, self.extra.index_select(0, chosen)), labels


@dataclass(eq=False)
class AugmentedRows:
    """Rows of images in one epoch of training, augmented: a batch depends on ``seed`` and its place in the epoch."""

    rows: Rows
    augmenter: Augmenter
    seed: int
    device: str

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        for step, ((images,), labels) in enumerate(self.rows.batches(batch_size, order)):
            moved = images.to(self.device, non_blocking=True)
            yield (self.augmenter(moved, derive(self.seed, step)),), labels


@dataclass(eq=False)
class ComputedRows:
    """Rows that are computed from other rows, batch by batch."""

    rows: Rows  # the other rows
    compute: Callable[..., Inputs]  # from their tensors [n, ...] to the tensors of these rows

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        for inputs, labels in self.rows.batches(batch_size, order):
            with torch.no_grad():  # not around the yield, where it would hold for the caller too
                computed = self.compute(*inputs)
            yield computed, labels

    def held(self, limit: int = HELD) -> Rows:
        """The same rows as whole tensors; these rows themselves if the computed ones have more than ``limit`` bytes.

        A tensor that ``compute`` passes through, reshaped or not, is not copied: it may be mapped from disk.
        """
        if not isinstance(self.rows, TensorRows):
            return self
        first_row, _ = next(self.rows.batches(1))
        with torch.no_grad():
            computed = self.compute(*first_row)
        whole = {
            index: stored.view(len(stored), *tensor.shape[1:])
            for index, tensor in enumerate(computed)
            for row, stored in zip(first_row, self.rows.tensors, strict=True)
            if row.data_ptr() == tensor.data_ptr() and row.numel() == tensor.numel() and tensor.is_contiguous()
        }
        new = {index: tensor for index, tensor in enumerate(computed) if index not in whole}
        if sum(tensor.nbytes for tensor in new.values()) * len(self) > limit:
            return self
        filled = {index: tensor.new_empty((len(self), *tensor.shape[1:])) for index, tensor in new.items()}
        for start, (inputs, _) in zip(range(0, len(self), BATCH), self.batches(BATCH), strict=True):
            for index, tensor in filled.items():
                tensor[start : start + BATCH] = inputs[index]
        whole |= filled
        return TensorRows([whole[index] for index in range(len(computed))], self.rows.labels)
