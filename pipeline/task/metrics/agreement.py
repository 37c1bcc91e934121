"""Labels that are the uncompressed model's own answers: accuracy is then agreement with it."""

import copy
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.guard import check_stop
from pipeline.hashes import fingerprint
from pipeline.paths import ANSWERS
from pipeline.task.parts import READ_BATCH, DatasetPart, Part, TensorPart
from pipeline.task.tensor_cache import read_tensors, write_tensors

logger = logging.getLogger(__name__)

FEW = 2048
"""Images up to which an order is answered by itself, so that a look at some of them does not wait for all."""
SAY_EVERY = 10.0
"""Seconds between two lines that say how far it is."""


def answers_at(key: str, part: str) -> Path:
    """The file of a part's answers, by the hash of everything that a task's depend on."""
    return ANSWERS / f"{fingerprint([key, part])}.safetensors"


class AnsweredPart:
    """The images of a part, each labelled with the class that a model puts first.

    The model is asked once, when the labels are first needed; no label of ``part`` is used.

    Args:
        part: The images.
        model: In eval mode; maps images to logits ``[n, classes]``.
        device: Where it is asked; where it lies, if none is given.
        file: Where its answers are kept, under a name that is the hash of all that they depend on.
    """

    def __init__(
        self,
        part: Part,
        model: nn.Module,
        *,
        device: str | torch.device | None = None,
        file: Path | None = None,
    ) -> None:
        self.part = part
        self._model, self._device, self._file = model, device, file
        self._labels: Tensor | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.part)

    @property
    def labels(self) -> Tensor:
        with self._lock:
            if self._labels is None:
                self._labels = self._kept()
            return self._labels

    def in_memory(self) -> TensorPart | None:
        """Images and answers, or None where the images are not held as one tensor."""
        whole = self.part.in_memory() if isinstance(self.part, DatasetPart) else self.part
        return TensorPart(whole.images, self.labels) if type(whole) is TensorPart else None

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        if self._labels is None and order is not None and len(order) <= FEW:
            for images, _ in self.part.batches(batch_size, order):
                yield images, _answers(self._model, images)
            return
        labels = self.labels if order is None else self.labels[order.to(self.labels.device)]
        given = self.part.batches(batch_size, order)
        for (images, _), own in zip(given, torch.split(labels, batch_size), strict=True):
            yield images, own

    def _kept(self) -> Tensor:
        if self._file is None:
            return self._ask()
        if self._file.exists():
            try:
                return read_tensors(self._file)["answers"]
            except Exception as error:  # whatever is wrong with it, the cure is the same
                logger.warning(f"answers {self._file} are damaged ({error}); the model is asked again")
        answers = self._ask()
        write_tensors(self._file, {"answers": answers})
        return answers

    def _ask(self) -> Tensor:
        model = self._model if self._device is None else copy.deepcopy(self._model).to(self._device)
        logger.info(f"agreement: the uncompressed model is asked about {len(self)} images")
        answers, began, said = torch.empty(len(self), dtype=torch.int64), time.monotonic(), time.monotonic()
        done = 0
        for images, _ in self.part.batches(READ_BATCH):
            check_stop()
            answers[done : done + len(images)] = _answers(model, images)
            done += len(images)
            now = time.monotonic()
            if now - said > SAY_EVERY:
                said, rate = now, done / (now - began)
                left = (len(self) - done) / rate
                logger.info(f"agreement: {done}/{len(self)} images, {rate:.0f} a second, {left:.0f} s left")
        return answers


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor) -> Tensor:
    parameter = next(model.parameters(), images)
    answers: Tensor = model(images.to(parameter.device)).argmax(1).cpu()
    return answers
