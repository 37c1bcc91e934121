"""The parts of a split: preprocessed images and labels, in memory if they fit, else streamed."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from pipeline.errors import IntegrityError
from pipeline.guard import check_stop
from pipeline.wording import duration

logger = logging.getLogger(__name__)

MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which a part is held as one tensor. CIFAR-10 at 32 px has 0.6 GiB, so all three parts fit a laptop; at
224 px the same images have 28 GiB and are streamed."""

READ_BATCH = 256
"""Images per batch when a whole part is read."""
LOG_INTERVAL = 10.0
"""Seconds between two log lines on the progress of a pass over a part."""


class Part(Protocol):
    """One part of a split: ``N`` preprocessed images and their labels."""

    @property
    def labels(self) -> Tensor:
        """``[N]``, int64."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images [n, ...], labels [n])``, in the order of the indices ``order`` if given.

        The last batch may be smaller than ``batch_size``.
        """


@runtime_checkable
class MapDataset(Protocol):
    """A map-style data set as torch defines it; its items are ``(image tensor, label)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Any]: ...


PartSource = Part | MapDataset | tuple[Tensor, Tensor]
"""What can be made a part: a part, a map-style data set of ``(image, label)``, or ``(images [N, ...], labels [N])``."""


def as_part(source: PartSource) -> Part:
    """Make a part of a pair ``(images [N, ...], labels [N])`` or a map-style data set; a part is returned as it is.

    Raises:
        IntegrityError: ``source`` is none of these, or images and labels do not fit each other.
    """
    if hasattr(source, "batches"):
        return cast(Part, source)  # not isinstance, which would compute the labels
    if isinstance(source, tuple | list) and len(source) == 2 and all(isinstance(item, Tensor) for item in source):
        return TensorPart(*source)
    if isinstance(source, MapDataset):
        return DatasetPart(source)
    raise IntegrityError(
        f"a part of a task cannot be of type {type(source).__name__}; give a pair of tensors (images, labels), or a "
        f"map-style data set whose items are (image tensor, label)"
    )


class PartField:
    """A dataclass field that is set with what ``as_part`` takes, and read as a ``Part``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: object, owner: type) -> Part:
        if instance is None:
            raise AttributeError("a part has no default")
        part: Part = getattr(instance, self._name)
        return part

    def __set__(self, instance: object, source: PartSource) -> None:
        object.__setattr__(instance, self._name, as_part(source))


class TensorPart:
    """A part in memory: preprocessed images ``[N, ...]``, and labels ``[N]`` of any integer type.

    Raises:
        IntegrityError: The images are not floating point, or the labels do not fit the images.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if not images.is_floating_point():
            raise IntegrityError(f"images are {images.dtype}; give them as preprocessed tensors in floating point")
        if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise IntegrityError(
                f"labels are {labels.dtype} {list(labels.shape)} for {len(images)} images; give one integer per image"
            )
        self.images = images
        self.labels = labels.long()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self) if order is None else len(order), batch_size):
            if order is None:
                yield self.images[start : start + batch_size], self.labels[start : start + batch_size]
            else:
                chosen = order[start : start + batch_size].to(self.labels.device)
                yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)


class DatasetPart:
    """A part over a map-style data set: read into memory if it fits ``limit``, else streamed.

    Nothing is read before labels or batches are asked for. A stream reads one batch ahead of the one in use.

    Args:
        dataset: Its items are ``(image tensor, label)``; all images have one shape.
        labels: ``[N]``, if they are known without reading an item.
        threads: The number of threads that may read items of ``dataset`` at once.
        limit: The most bytes of images that are held in memory.
    """

    def __init__(
        self, dataset: MapDataset, labels: Tensor | None = None, *, threads: int = 1, limit: int = MEMORY_LIMIT
    ) -> None:
        self._dataset, self._labels, self._threads, self._limit = dataset, labels, threads, limit
        self._reading = threading.Semaphore(threads)  # shared by all streams, as cohorts may stream in parallel
        self._held: TensorPart | None = None
        self._shape: torch.Size | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def labels(self) -> Tensor:
        with self._lock:
            if self._labels is None:
                self._labels = torch.cat([labels for _, labels in self.batches(READ_BATCH)])
            return self._labels

    def in_memory(self) -> TensorPart | None:
        """The whole part, read at the first call; ``None`` if its images take more bytes than the limit."""
        with self._lock:
            if self._shape is None and len(self):
                image, _ = self._dataset[0]
                if not isinstance(image, Tensor) or not image.is_floating_point():
                    kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
                    raise IntegrityError(f"images are {kind}; give them as preprocessed tensors in floating point")
                self._shape = image.shape
                if len(self) * image.nbytes <= self._limit:
                    images, labels = image.new_empty((len(self), *image.shape)), []
                    batches = self._stream(READ_BATCH, torch.arange(len(self)))
                    for place, (read, its_labels) in zip(torch.split(images, READ_BATCH), batches, strict=True):
                        place[:] = read
                        labels.append(its_labels)
                    self._held = TensorPart(images, torch.cat(labels))
            return self._held

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        if held := self.in_memory():
            yield from held.batches(batch_size, order)
        else:
            yield from self._stream(batch_size, torch.arange(len(self)) if order is None else order)

    def _stream(self, batch_size: int, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        def read(indices: Tensor) -> list[tuple[Tensor, Any]]:
            with self._reading:
                items = [self._dataset[index] for index in indices.tolist()]
            for index, (image, _) in zip(indices.tolist(), items, strict=True):
                if image.shape != self._shape:
                    raise IntegrityError(
                        f"image {index} is {list(image.shape)}, and image 0 is {list(self._shape or ())}; resize all "
                        f"images to one shape"
                    )
            return items

        def stacked(reading: list[Future[list[tuple[Tensor, Any]]]]) -> tuple[Tensor, Tensor]:
            items = [item for future in reading for item in future.result()]
            images = torch.stack([image for image, _ in items])
            labels = torch.tensor([int(label) for _, label in items])
            # Copies from pinned memory to a GPU run in parallel with its computations.
            on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            return (images.pin_memory(), labels.pin_memory()) if on_gpu else (images, labels)

        with ThreadPoolExecutor(self._threads) as pool:
            reading = None
            for start in range(0, len(order), batch_size):
                shares = order[start : start + batch_size].chunk(self._threads)
                ahead = [pool.submit(read, indices) for indices in shares]
                if reading:
                    yield stacked(reading)
                reading = ahead
            if reading:
                yield stacked(reading)


def logged_batches(part: Part, batch_size: int, what: str, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches from image ``start`` on, and log the progress of a long pass; ``what`` heads its lines.

    Raises:
        StopTraining: The active guard stops the pass.
    """
    done, began, logged = start, time.monotonic(), time.monotonic()
    for images, labels in part.batches(batch_size, torch.arange(start, len(part)) if start else None):
        check_stop()
        yield images, labels
        done, now = done + len(labels), time.monotonic()
        if now - logged > LOG_INTERVAL:
            logged, rate = now, (done - start) / (now - began)
            left = duration((len(part) - done) / rate)
            logger.info(f"{what}: {done:,} of {len(part):,} images, {rate:.0f} per second, {left} left")
