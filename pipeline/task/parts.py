"""The parts of a split: preprocessed images and labels, in memory if they fit, else streamed."""

import functools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

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
PASS = 64
"""Images per pass of a whole model. The tensors of 256 images of 224 px leave the caches: EfficientNet-Lite0 takes 1.6
times as long for each (one core), and 5 GB more memory."""
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


class Samples(Protocol):
    """A map-style data set of preprocessed images, all of one floating-point type and shape, and their labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]: ...


class TensorPart:
    """A part in memory: preprocessed images ``[N, ...]``, and labels ``[N]`` of any integer type."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels.long()

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

    Nothing is read before labels or batches are asked for. Pickles and copies of a part in memory hold no data set.

    Args:
        dataset: Its items are ``(image tensor, label)``.
        labels: ``[N]``, if they are known without reading an item.
        name: The part's name in messages.
        threads: The number of threads of its own that may read items of ``dataset`` at once, one batch ahead of the
            one in use; 0 to read in the thread that asks for a batch.
        limit: The most bytes of images that are held in memory.
    """

    def __init__(
        self,
        dataset: Samples,
        labels: Tensor | None = None,
        *,
        name: str = "given",
        threads: int = 1,
        limit: int = MEMORY_LIMIT,
    ) -> None:
        self._dataset, self._labels, self._name, self._threads, self._limit = dataset, labels, name, threads, limit
        self._reading = threading.Semaphore(max(1, threads))  # of all streams, as cohorts may stream in parallel
        self._held: TensorPart | None = None
        self._shape: torch.Size | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def class_names(self) -> Sequence[object]:
        """The classes by label, where the data set names them; else empty."""
        return getattr(self._dataset, "class_names", ())

    def __reduce__(self) -> tuple[Any, ...]:
        if self._held is not None:
            return TensorPart, (self._held.images, self._held.labels)
        made = functools.partial(DatasetPart, name=self._name, threads=self._threads, limit=self._limit)
        return made, (self._dataset, self._labels)

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
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if not self._threads:
            for indices in batches:
                yield _stacked(self._read(indices))
            return
        with ThreadPoolExecutor(self._threads) as pool:
            reading: list[Future[list[tuple[Tensor, int]]]] = []
            for indices in batches:
                ahead = [pool.submit(self._read, share) for share in indices.chunk(self._threads)]
                if reading:
                    yield _stacked(item for future in reading for item in future.result())
                reading = ahead
            if reading:
                yield _stacked(item for future in reading for item in future.result())

    def _read(self, indices: Tensor) -> list[tuple[Tensor, int]]:
        with self._reading:
            items = [self._dataset[index] for index in indices.tolist()]
        for index, (image, _) in zip(indices.tolist(), items, strict=True):
            if image.shape != self._shape:
                raise IntegrityError(
                    f"image {index} of the {self._name} part is {list(image.shape)}, and image 0 is "
                    f"{list(self._shape or ())}; resize all images to one shape"
                )
        return items


def _stacked(items: Iterable[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A batch of items, in pinned memory beside a GPU: copies from there run in parallel with its computations."""
    read, its_labels = zip(*items, strict=True)
    images, labels = torch.stack(read), torch.tensor([int(label) for label in its_labels])
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return (images.pin_memory(), labels.pin_memory()) if on_gpu else (images, labels)


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
