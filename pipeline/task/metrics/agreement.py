"""Agreement: the labels are the classes that the uncompressed model predicts, so accuracy is agreement with it."""

import copy
import functools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.registry import METRICS
from pipeline.task.contract import Metric
from pipeline.task.parts import PASS, DatasetPart, Part, TensorPart, logged_batches
from pipeline.task.tensor_cache import read_tensors, write_tensors

logger = logging.getLogger(__name__)

FEW = 2048
"""The most images of an order whose labels are predicted at once, so that a small sample does not wait for the part."""


@METRICS.register("agreement")
class Agreement(Metric):
    """The share of images that the model classifies as the uncompressed model does; no labels are needed."""

    uses_labels = False

    def relabelled(
        self, part: Part, model: nn.Module, device: str | torch.device | None = None, file: Path | None = None
    ) -> Part:
        return part if isinstance(part, PredictedPart) else PredictedPart(part, model, device=device, file=file)


class PredictedPart:
    """The images of a part, labelled with the class that a model predicts; the part's labels are not used.

    All images are classified once, when their labels are first needed. The arguments are those of ``relabelled``,
    and the ``labels [N]`` if they are known.
    """

    def __init__(
        self,
        part: Part,
        model: nn.Module,
        *,
        device: str | torch.device | None = None,
        file: Path | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.part = part
        self._model, self._device, self._file, self._labels = model, device, file, labels
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        made = functools.partial(PredictedPart, device=self._device, file=self._file, labels=self._labels)
        return made, (self.part, self._model)

    def __len__(self) -> int:
        return len(self.part)

    @property
    def labels(self) -> Tensor:
        with self._lock:
            if self._labels is None:
                self._labels = self._read_or_predict()
            return self._labels

    def in_memory(self) -> TensorPart | None:
        """Images and predicted classes; ``None`` if the images are not held as one tensor."""
        whole = self.part.in_memory() if isinstance(self.part, DatasetPart) else self.part
        return TensorPart(whole.images, self.labels) if type(whole) is TensorPart else None

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        if self._labels is None and order is not None and len(order) <= FEW:
            for images, _ in self.part.batches(batch_size, order):
                yield images, _predict(self._model, images)
            return
        labels = self.labels if order is None else self.labels[order.to(self.labels.device)]
        batches = self.part.batches(batch_size, order)
        for (images, _), predicted in zip(batches, torch.split(labels, batch_size), strict=True):
            yield images, predicted

    def _read_or_predict(self) -> Tensor:
        if self._file is not None and (cached := read_tensors(self._file)) is not None:
            return cached["answers"]
        model = self._model if self._device is None else copy.deepcopy(self._model).to(self._device)
        logger.info(f"agreement: the uncompressed model classifies {len(self)} images")
        batches = logged_batches(self.part, PASS, "agreement")
        predicted = torch.cat([_predict(model, images) for images, _ in batches])
        if self._file is not None:
            write_tensors(self._file, {"answers": predicted})
        return predicted


@torch.no_grad()
def _predict(model: nn.Module, images: Tensor) -> Tensor:
    """The class ``[n]`` with the largest logit, on the CPU."""
    device = next(model.parameters(), images).device
    predicted: Tensor = model(images.to(device)).argmax(1).cpu()
    return predicted
