"""The frozen prefix: what a model's stem gives for every image, computed once, kept on disk, mapped into memory.

A folder holds a file for each tensor, ``0.bin``, ``1.bin``, ...; a journal, so that a build that was stopped goes on;
and, once it is whole, a card with the sha256 of each file.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import StorageError
from pipeline.guard import check_stop
from pipeline.hashes import file_sha256, fingerprint, hash_weights
from pipeline.paths import FEATURES, write_whole
from pipeline.task.contract import Part
from pipeline.train.cache.cache_build import FORMAT, Build
from pipeline.train.cache.cache_folder import CARD, keep, lock, make_room, read_card
from pipeline.train.rows import Inputs, TensorRows

logger = logging.getLogger(__name__)

LIMIT = 50 * 10**9
"""Bytes that all caches may take, unless a run is told otherwise."""
SAMPLE = 16
"""Rows that are computed again, in other company, once a cache is built."""
LONG = 1000
"""Images above which a sample is asked for twice before a build, and not only after it."""
WAIT = 0.2
"""Seconds between two looks at a cache that another process builds."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of the largest number in the sample: rounding of another batch size, and of the cache's own precision."""

UNSTEADY = (
    "cache: the frozen layers give something else when they are asked again (random numbers, statistics of a batch, or "
    "augmented images), so nothing is cached"
)

Judge = Callable[[Inputs], Tensor]


@dataclass
class FeatureCache:
    """Caches of frozen prefixes; one object serves all combinations of a task.

    Args:
        folder: Where they lie.
        limit: Bytes that all of them may take.
        dtype: How their numbers are kept.
        device: Where stems compute.
    """

    folder: Path = FEATURES
    limit: int = LIMIT
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    _opened: dict[str, TensorRows | None] = field(default_factory=dict)

    def rows(
        self, stem: nn.Module, part: Part, facts: Mapping[str, str], judge: Judge | None = None
    ) -> TensorRows | None:
        """What ``stem`` gives for each image of ``part``, mapped from disk; built first where it is not there.

        Args:
            stem: The frozen layers.
            part: The images.
            facts: Whatever else tells these images from others: hashes, the part's name, preprocessing.
            judge: From what the stem gives to logits: where the cache rounds, right answers are counted both ways.

        Returns:
            None where it would be larger than the limit, or the stem gives something else when asked again.

        Raises:
            StorageError: The disk has no room for it.
        """
        key = self.key(stem, facts)
        if key not in self._opened:
            self._opened[key] = self._open(self._build(self.folder / key, stem, part, judge))
        return self._opened[key]

    def key(self, stem: nn.Module, facts: Mapping[str, str]) -> str:
        """The hash of everything that a cache depends on: weights, calls, images, and how its numbers are kept."""
        modules = {name: repr(module) for name, module in stem.named_modules() if name}
        return fingerprint([FORMAT, str(stem.code), modules, hash_weights(stem), dict(facts), str(self.dtype)])[:32]

    def plan(self, stem: nn.Module, part: Part, facts: Mapping[str, str]) -> tuple[int, bool]:
        """Bytes that the cache of a part takes, and whether it is there."""
        folder = self.folder / self.key(stem, facts)
        return self._build(folder, stem, part, None).bytes, read_card(folder) is not None

    def _build(self, folder: Path, stem: nn.Module, part: Part, judge: Judge | None) -> Build:
        images, _ = next(iter(part.batches(1, torch.tensor([0]))))
        with torch.no_grad():
            shapes = [[len(part), *tensor.shape[1:]] for tensor in stem(images.to(self.device))]
        rounds = self.dtype.itemsize < images.dtype.itemsize
        return Build(folder, stem, part, shapes, self.dtype, self.device, judge if rounds else None)

    def _open(self, build: Build) -> TensorRows | None:
        said = False
        while True:
            try:
                with lock(build.folder, alone=False) as handle:
                    rows = self._mapped(build, handle)
                if rows is not None:
                    return rows
                with lock(build.folder, alone=True) as handle:
                    return self._mapped(build, handle) or self._built(build, handle)  # another may have been quicker
            except BlockingIOError:
                if not said:
                    logger.info("cache: another process builds it, waiting")
                said = True
                check_stop()
                time.sleep(WAIT)

    def _mapped(self, build: Build, handle: int) -> TensorRows | None:
        """The rows of a complete folder that is sound; a damaged one is said, and of no use."""
        if not (build.folder / CARD).exists():
            return None
        damage = _damage(build)
        if damage is None and not _is_repeatable(build, _map(build)):  # code and plain attributes are in no key
            damage = f"{build.folder} holds something else than the frozen layers give now"
            build.journal.unlink(missing_ok=True)
        if damage is not None:
            logger.warning(f"cache: {damage}; it is built again")
            (build.folder / CARD).unlink(missing_ok=True)
            return None
        keep(build.folder, handle)
        return TensorRows(_map(build), build.part.labels)

    def _built(self, build: Build, handle: int) -> TensorRows | None:
        if not make_room(build.folder, build.bytes, self.limit):
            logger.info(f"cache: {build.bytes / 1e9:.2f} GB do not fit --cache-limit; frozen layers run in every epoch")
            return None
        if len(build.part) > LONG and not _is_steady(build):
            logger.info(UNSTEADY)
            return None
        with _storing(build):
            build.folder.mkdir(exist_ok=True)
            card = build.run()
        tensors = _map(build)
        if not _is_repeatable(build, tensors):
            shutil.rmtree(build.folder)
            logger.info(UNSTEADY)
            return None
        with _storing(build):
            write_whole(build.folder / CARD, lambda path: _write(path, json.dumps(card)))
        keep(build.folder, handle)
        return TensorRows(tensors, build.part.labels)


@contextmanager
def _storing(build: Build) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the cache in {build.folder} needs {build.bytes:,} bytes: {error}") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _damage(build: Build) -> str | None:
    """What of a folder with a card is not as it was written, in words."""
    card = read_card(build.folder)
    if card is None or len(card["sha256"]) != len(build.shapes):
        return f"{build.folder / CARD} is damaged"
    for place, noted in enumerate(card["sha256"]):
        path = build.folder / f"{place}.bin"
        found = _sha256(path)
        if found != noted:
            return f"{path} is damaged (sha256 {found}, noted {noted})"
    return None


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        return str(error.strerror)


def _map(build: Build) -> list[Tensor]:
    tensors = []
    for place, shape in enumerate(map(torch.Size, build.shapes)):
        path = str(build.folder / f"{place}.bin")
        tensors.append(torch.from_file(path, shared=False, size=shape.numel(), dtype=build.dtype).view(shape))
    return tensors


def _sample(build: Build) -> Tensor:
    return torch.randperm(len(build.part), generator=torch.Generator().manual_seed(0))[:SAMPLE]


@torch.no_grad()
def _given(build: Build, chosen: Tensor, batch_size: int) -> list[Tensor]:
    """What the stem gives for some images, so many at a time."""
    batches = [build.stem(images.to(build.device)) for images, _ in build.part.batches(batch_size, chosen)]
    return [torch.cat(each).cpu() for each in zip(*batches, strict=True)]


def _is_steady(build: Build) -> bool:
    """Whether the stem gives the same for a few images in other company: before hours are spent on all."""
    chosen = _sample(build)
    return _close(_given(build, chosen, SAMPLE), _given(build, chosen, SAMPLE // 2), build.dtype)


def _is_repeatable(build: Build, tensors: Sequence[Tensor]) -> bool:
    """Whether what is kept is what the stem gives now."""
    chosen = _sample(build)
    kept = [tensor.index_select(0, chosen) for tensor in tensors]
    return _close(kept, _given(build, chosen, SAMPLE), build.dtype)


def _close(ones: Sequence[Tensor], others: Sequence[Tensor], dtype: torch.dtype) -> bool:
    return all(
        torch.allclose(one.double(), other.double(), rtol=0, atol=TOLERANCE[dtype] * float(other.abs().max()))
        for one, other in zip(ones, others, strict=True)
    )
