"""What a task is: a trained model, the parts of its data, and the number that is to be won back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Part(Protocol):
    """One part of a split: preprocessed images and their labels."""

    @property
    def labels(self) -> Tensor:
        """``[N]``, int64."""

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images [n, ...], labels [n])`` in ``order``, an index tensor, or as they lie; the last may be short."""


@dataclass(frozen=True)
class Task:
    """A model, its data and what is known of them; the same for a study file and for a user's own module.

    Args:
        model: The trained, uncompressed module. It maps a batch of images to logits ``[n, classes]``.
        train, val, test: ``Part``s, or anything ``as_part`` takes: a map-style data set of ``(image tensor, label)``,
            or a pair of tensors.
        description: JSON-able facts for the card and the stored study, and enough to build the model again.
        hashes: sha256 of ``weights``, ``data`` and ``split``; they are computed where they are not given.
    """
