"""Building a cache: rows are appended to files, and a journal records verified lengths, so that builds can resume."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pipeline.task.parts import PASS, Part, logged_batches
from pipeline.train.rows import Inputs
from pipeline.wording import readable_bytes

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the folder's layout; part of a cache's key."""
JOURNAL_BYTES = 2**26
"""Bytes between two lines of the journal: the most that a killed build loses."""


@dataclass(frozen=True)
class Build:
    folder: Path
    stem: Callable[[Tensor], Inputs]  # from images to the cached tensors
    part: Part
    shapes: Sequence[Sequence[int]]  # of the cached tensors, [N, ...]
    dtype: torch.dtype
    device: str
    judge: Callable[[Inputs], Tensor] | None  # from cached tensors to logits, to compare exact with rounded values

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"{index}.bin" for index in range(len(self.shapes))]

    @property
    def row_bytes(self) -> list[int]:
        return [torch.Size(shape[1:]).numel() * self.dtype.itemsize for shape in self.shapes]

    @property
    def bytes(self) -> int:
        return len(self.part) * sum(self.row_bytes)

    def run(self) -> dict[str, Any]:
        """Compute the missing rows; returns the card."""
        for half_written in self.folder.glob(".*.tmp"):
            half_written.unlink()
        for path in self.paths:
            path.touch()
        count = len(self.part)
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("r+b")) for path in self.paths]
            progress = _Progress(files, self.row_bytes, self.journal)
            if progress.rows < count:
                earlier = f" ({progress.rows} are done already)" if progress.rows else ""
                images = f"{count - progress.rows} images{earlier}"
                logger.info(f"cache: the frozen layers run once over {images}, {readable_bytes(self.bytes)}")
                for batch in logged_batches(self.part, PASS, "cache", progress.rows):
                    progress.append(*self._computed(*batch))
                progress.record()
        card = {"format": FORMAT, "shapes": self.shapes, "dtype": str(self.dtype), "sha256": progress.sha256}
        if self.judge is None:
            return card
        exact, rounded = (correct / count for correct in progress.correct)
        logger.info(f"cache: features as {self.dtype}: accuracy {rounded:.4f}, in full precision {exact:.4f}")
        return {**card, "correct": progress.correct}

    @torch.no_grad()
    def _computed(self, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[int]]:
        """The tensors in the type of the cache, and the numbers of correct images with exact and rounded values."""
        exact = self.stem(images.to(self.device))
        cached = [tensor.to("cpu", self.dtype).contiguous() for tensor in exact]
        if self.judge is None:
            return cached, [0, 0]
        rounded = tuple(tensor.to(exact[0]) for tensor in cached)
        return cached, [int((self.judge(values).argmax(1).cpu() == labels).sum()) for values in (exact, rounded)]


class _Progress:
    """Growing files, and their journal: each line has a number of rows and the sha256 of each file up to there."""

    def __init__(self, files: Sequence[BinaryIO], row_bytes: Sequence[int], journal: Path) -> None:
        self.files, self.row_bytes, self.journal = files, row_bytes, journal
        self.rows, self.correct = 0, [0, 0]
        self._digests = [hashlib.sha256() for _ in files]
        self._unrecorded = 0
        verified = list(self._verified_lines())
        for file, row in zip(files, row_bytes, strict=True):
            file.truncate(self.rows * row)
            file.seek(self.rows * row)
        journal.write_text("".join(f"{line}\n" for line in verified), encoding="utf-8")

    @property
    def sha256(self) -> list[str]:
        return [digest.hexdigest() for digest in self._digests]

    def _verified_lines(self) -> Iterator[str]:
        """The lines of an earlier build's journal whose rows are unchanged; sets the state to the last one."""
        for line in self.journal.read_bytes().splitlines() if self.journal.exists() else []:
            try:
                entry = json.loads(line)
                rows, correct, sha256 = (entry[name] for name in ("rows", "correct", "sha256"))
            except (ValueError, TypeError, KeyError):  # half-written by a killed build, or damaged
                return
            digests = [digest.copy() for digest in self._digests]
            for file, digest, row in zip(self.files, digests, self.row_bytes, strict=True):
                digest.update(file.read((rows - self.rows) * row))
                if file.tell() != rows * row:
                    return
            if [digest.hexdigest() for digest in digests] != sha256:
                return
            self._digests, self.rows, self.correct = digests, rows, correct
            yield line.decode()

    def append(self, tensors: Sequence[Tensor], correct: Sequence[int]) -> None:
        """Append a batch to the files, and at intervals a line to the journal."""
        for file, digest, tensor in zip(self.files, self._digests, tensors, strict=True):
            data = tensor.view(torch.uint8).numpy().data
            digest.update(data)
            file.write(data)
            self._unrecorded += tensor.nbytes
        self.rows += len(tensors[0])
        self.correct = [a + b for a, b in zip(self.correct, correct, strict=True)]
        if self._unrecorded >= JOURNAL_BYTES:
            self.record()

    def record(self) -> None:
        """Write the files to disk, then a line of the journal."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
        with self.journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"rows": self.rows, "correct": self.correct, "sha256": self.sha256}) + "\n")
        self._unrecorded = 0
