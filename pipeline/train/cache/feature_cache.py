"""The cache of a model's stem: its outputs for every image, computed once, stored on disk, mapped into memory.

A folder has one file per tensor, ``0.bin``, ``1.bin``, ...; a journal, from which a stopped build resumes; and, once it
is complete, a card with the sha256 of each file.
"""

import json
import logging
import math
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
from pipeline.locks import NoLocksError
from pipeline.paths import FEATURES, write_text
from pipeline.task.contract import Part
from pipeline.task.parts import PASS
from pipeline.train.cache.cache_build import FORMAT, Build
from pipeline.train.cache.cache_folder import CARD, lock, make_room, read_card, use
from pipeline.train.rows import Inputs, Stem, TensorRows
from pipeline.wording import readable_bytes

logger = logging.getLogger(__name__)

LIMIT = 50 * 10**9
"""The most bytes of all caches together, unless a run is given another limit."""
SAMPLE = 16
"""Rows that are computed again, in a batch of their own, to verify a cache."""
LONG = 1000
"""The number of images from which a sample is computed twice before a build, and not only verified after it."""
WAIT = 0.2
"""Seconds between two attempts to open a cache that another process builds."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Tolerated differences, relative to the largest value of the sample: rounding by batch size and by the cache."""

NOT_REPEATABLE = (
    "cache: the frozen layers give other outputs when they run again (random numbers, batch statistics, or augmented "
    "images), so nothing is cached"
)

Judge = Callable[[Inputs], Tensor]
"""The function from a stem's outputs to logits."""


@dataclass
class FeatureCache:
    """The caches of stems, in one folder of at most ``limit`` bytes; all combinations of a task share one object."""

    folder: Path = FEATURES
    limit: int = LIMIT
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    _opened: dict[str, TensorRows | None] = field(default_factory=dict)

    def rows(
        self, stem: nn.Module, part: Part, facts: Mapping[str, str], judge: Judge | None = None
    ) -> TensorRows | None:
        """The outputs of ``stem`` for each image of ``part``, mapped from disk; computed and stored first if needed.

        ``None`` if the cache would exceed the limit, its folder cannot be locked, or the stem gives other outputs when
        it runs again. ``facts`` distinguish these images from others; ``judge`` is given to log how rounding changes
        the accuracy. A ``StorageError`` says that the disk has too little free space.
        """
        key = self.key(stem, facts)
        if key not in self._opened:
            self._opened[key] = self._open(self._build(self.folder / key, stem, part, judge))
        return self._opened[key]

    def key(self, stem: nn.Module, facts: Mapping[str, str]) -> str:
        """The hash of everything that a cache depends on: weights, calls, images, and the type of its values."""
        modules = {name: repr(module) for name, module in stem.named_modules() if name}
        return fingerprint([FORMAT, str(stem.code), modules, hash_weights(stem), dict(facts), str(self.dtype)])[:32]

    def plan(self, stem: nn.Module, part: Part, facts: Mapping[str, str]) -> tuple[int, bool]:
        """The bytes of the cache of a part, and whether it exists."""
        folder = self.folder / self.key(stem, facts)
        return self._build(folder, stem, part, None).bytes, read_card(folder) is not None

    def _build(self, folder: Path, stem: nn.Module, part: Part, judge: Judge | None) -> Build:
        images, _ = next(iter(part.batches(1, torch.tensor([0]))))
        with torch.no_grad():
            shapes = [[len(part), *tensor.shape[1:]] for tensor in stem(images.to(self.device))]
        rounds = self.dtype.itemsize < images.dtype.itemsize
        return Build(folder, stem, part, shapes, self.dtype, self.device, judge if rounds else None)

    def _open(self, build: Build) -> TensorRows | None:
        waits = False
        while True:
            try:
                for exclusive in (False, True):  # another process may build it between the two locks
                    with lock(build.folder, exclusive=exclusive) as handle:
                        if _is_complete(build) or (exclusive and self._builds(build)):
                            use(build.folder, handle)
                            return TensorRows(_map(build), build.part.labels)
                return None
            except NoLocksError as error:
                logger.warning(f"cache: {error}; until then frozen layers run in every epoch")
                return None
            except BlockingIOError:
                if not waits:
                    logger.info("cache: another process builds it, waiting")
                waits = True
                check_stop()
                time.sleep(WAIT)

    def _builds(self, build: Build) -> bool:
        """Build a folder, unless it exceeds the limit or the stem's outputs cannot be repeated."""
        if not make_room(build.folder, build.bytes, self.limit):
            logger.info(f"cache: {readable_bytes(build.bytes)} exceed --cache-limit; frozen layers run in every epoch")
            return False
        # Tried with two batch sizes before a build that may take hours.
        if len(build.part) > LONG and not _gives(build, _outputs(build, SAMPLE // 2)):
            logger.info(NOT_REPEATABLE)
            return False
        with _storing(build):
            build.folder.mkdir(exist_ok=True)
            card = build.run()
        if not _is_repeatable(build):
            shutil.rmtree(build.folder)
            logger.info(NOT_REPEATABLE)
            return False
        with _storing(build):
            write_text(build.folder / CARD, json.dumps(card))
        return True


@torch.no_grad()
def teacher_logits(
    teacher: Stem, part: Part, device: str, cache: FeatureCache | None, facts: Mapping[str, str]
) -> Tensor:
    """The logits ``[N, classes]`` of the uncompressed model, mapped from the cache, or held in memory without one."""
    rows = cache and cache.rows(teacher, part, facts)
    if rows:
        (logits,) = rows.tensors
    else:
        logits = torch.cat([teacher(images.to(device))[0].cpu() for images, _ in part.batches(PASS)])
    return logits if torch.device(device).type == "cpu" else logits.to(device)


@contextmanager
def _storing(build: Build) -> Iterator[None]:
    """Turn errors of the disk into a ``StorageError`` that names the folder and the bytes needed."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"the cache in {build.folder} needs {build.bytes:,} bytes: {error}; free space") from error


def _is_complete(build: Build) -> bool:
    """Whether a folder is complete, and holds what the stem gives; damage is logged."""
    if not (build.folder / CARD).exists():
        return False
    damage = _damage(build)
    if damage is not None:
        logger.warning(f"cache: {damage}; it is built again")
        (build.folder / CARD).unlink(missing_ok=True)
    return damage is None


def _damage(build: Build) -> str | None:
    """How a folder with a card differs from its card or from the stem, in words; ``None`` if it does not."""
    card = read_card(build.folder)
    if card is None or len(card["sha256"]) != len(build.shapes):
        return f"{build.folder / CARD} is damaged"
    for path, expected in zip(build.paths, card["sha256"], strict=True):
        try:
            found = file_sha256(path)
        except OSError as error:
            return f"{path} is damaged ({error.strerror})"
        if found != expected:
            return f"{path} is damaged (sha256 {found}, expected {expected})"
    if not _is_repeatable(build):  # the key covers neither code nor attributes
        build.journal.unlink(missing_ok=True)
        return f"{build.folder} holds other outputs than the frozen layers give now"
    return None


def _map(build: Build) -> list[Tensor]:
    """The tensors of a complete folder, mapped from disk."""
    return [
        torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=build.dtype).view(*shape)
        for path, shape in zip(build.paths, build.shapes, strict=True)
    ]


def _sample(build: Build) -> Tensor:
    """Indices of the images that verify a cache; always the same."""
    return torch.randperm(len(build.part), generator=torch.Generator().manual_seed(0))[:SAMPLE]


@torch.no_grad()
def _outputs(build: Build, batch_size: int) -> list[Tensor]:
    """The outputs of the stem for the sample, computed in batches of a given size."""
    batches = [build.stem(images.to(build.device)) for images, _ in build.part.batches(batch_size, _sample(build))]
    return [torch.cat(tensors).cpu() for tensors in zip(*batches, strict=True)]


def _gives(build: Build, expected: Sequence[Tensor]) -> bool:
    """Whether the stem gives the expected outputs of the sample, up to rounding."""
    return all(
        torch.allclose(one.double(), other.double(), rtol=0, atol=TOLERANCE[build.dtype] * float(other.abs().max()))
        for one, other in zip(expected, _outputs(build, SAMPLE), strict=True)
    )


def _is_repeatable(build: Build) -> bool:
    """Whether the stem gives the cached outputs of the sample again."""
    return _gives(build, [tensor.index_select(0, _sample(build)) for tensor in _map(build)])
