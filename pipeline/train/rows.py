"""What lanes are fed with: for every image a row of each of some tensors, in memory, mapped from disk, or streamed."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.task.contract import Part
from pipeline.task.metrics.agreement import AnsweredPart
from pipeline.task.parts import DatasetPart, TensorPart

Inputs = tuple[Tensor, ...]
HELD = 2**30
"""Bytes of one part up to which computed rows are held in memory: 1,000 logits of 268,000 images. Above it they are
computed anew for every batch, once for all lanes."""
BATCH = 256


class Rows(Protocol):
    """The rows of one part and its labels; several lanes read them at once, and change nothing."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield ``(tensors [n, ...], labels [n])`` as they lie, or by the indices ``order``; the last may be short."""


class TensorRows:
    """Rows of whole tensors.

    Args:
        tensors: ``[N, ...]`` each.
        labels: ``[N]``.
    """

    def __init__(self, tensors: Sequence[Tensor], labels: Tensor) -> None:
        self.tensors, self.labels = tuple(tensors), labels

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        everything = (*self.tensors, self.labels)
        for start in range(0, len(self) if order is None else len(order), batch_size):
            if order is None:
                *inputs, labels = (tensor[start : start + batch_size] for tensor in everything)
            else:
                chosen = order[start : start + batch_size]
                *inputs, labels = (tensor.index_select(0, chosen.to(tensor.device)) for tensor in everything)
            yield tuple(inputs), labels

    def to(self, device: str, limit: int = HELD) -> "TensorRows":
        """The same on a device, where they take no more than ``limit`` bytes there."""
        if sum(tensor.nbytes for tensor in self.tensors) > limit:
            return self
        return TensorRows([tensor.to(device) for tensor in self.tensors], self.labels.to(device))


class _PartRows:
    """The images of a part that is streamed."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def __len__(self) -> int:
        return len(self._part)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        for images, labels in self._part.batches(batch_size, order):
            yield (images,), labels


def image_rows(part: Part) -> Rows:
    """The images of a part."""
    whole = part.in_memory() if isinstance(part, DatasetPart | AnsweredPart) else part
    return TensorRows([whole.images], whole.labels) if type(whole) is TensorPart else _PartRows(part)


def beside(rows: Rows, extra: Tensor) -> Rows:
    """The same rows, and of ``extra`` ``[N, ...]`` each image's own as the last tensor, whatever the order."""
    if isinstance(rows, TensorRows):
        return TensorRows([*rows.tensors, extra], rows.labels)
    return _Beside(rows, extra)


class _Beside:
    """Rows that are streamed or computed, and a whole tensor beside them."""

    def __init__(self, rows: Rows, extra: Tensor) -> None:
        self._rows, self._extra = rows, extra

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        order = torch.arange(len(self)) if order is None else order
        chosen = torch.split(order.to(self._extra.device), batch_size)
        for (inputs, labels), places in zip(self._rows.batches(batch_size, order), chosen, strict=True):
            yield (*inputs, self._extra.index_select(0, places)), labels


class ComputedRows:
    """Rows that are computed from others, batch by batch.

    Args:
        rows: The others.
        compute: From their tensors to these.
    """

    def __init__(self, rows: Rows, compute: Callable[..., Inputs]) -> None:
        self.rows, self._compute = rows, compute

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        for inputs, labels in self.rows.batches(batch_size, order):
            with torch.no_grad():  # not around the yield: whoever takes the batch has its own
                computed = self._compute(*inputs)
            yield computed, labels

    def held(self, limit: int = HELD) -> Rows:
        """The same as whole tensors, where the new ones take no more than ``limit`` bytes; else as they are.

        What is handed on as it was, or in another shape, stays where it lies: mapped from disk, if it was.
        """
        if not isinstance(self.rows, TensorRows):
            return self
        given, _ = next(self.rows.batches(1))
        with torch.no_grad():
            taken = [_whole(tensor, given, self.rows.tensors) for tensor in self._compute(*given)]
        new = [tensor for tensor in taken if not len(tensor)]
        if sum(math.prod(tensor.shape[1:]) * tensor.itemsize for tensor in new) * len(self) > limit:
            return self
        whole = [tensor if len(tensor) else tensor.new_empty((len(self), *tensor.shape[1:])) for tensor in taken]
        start = 0
        for inputs, labels in self.batches(BATCH):
            for tensor, some, known in zip(whole, inputs, taken, strict=True):
                if not len(known):
                    tensor[start : start + len(labels)] = some
            start += len(labels)
        return TensorRows(whole, self.rows.labels)


def _whole(tensor: Tensor, given: Inputs, tensors: Sequence[Tensor]) -> Tensor:
    """The whole tensor whose first row is ``tensor``, if it is a given one's in any shape; else an empty one."""
    for first, whole in zip(given, tensors, strict=True):
        if first.data_ptr() == tensor.data_ptr() and first.numel() == tensor.numel() and tensor.is_contiguous():
            return whole.view(len(whole), *tensor.shape[1:])
    return tensor[:0]
