"""The building of a cache: rows are appended to files, and a journal notes how far they are sound."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pipeline.guard import check_stop
from pipeline.task.contract import Part
from pipeline.train.rows import Inputs

logger = logging.getLogger(__name__)

FORMAT = 1
BATCH = 64
JOURNAL_BYTES = 2**26
"""Bytes between two lines of the journal: what a build that is killed does again at most."""
SAY_EVERY = 10.0
"""Seconds between two lines that say how far it is."""


@dataclass(frozen=True)
class Build:
    """What is built.

    Args:
        folder: Where the files lie.
        stem: From images to the tensors that are kept.
        part: The images.
        shapes: Of each whole tensor.
        dtype: How numbers are kept.
        device: Where the stem computes.
        judge: From the tensors to logits, where right answers are to be counted: exact, and as they are kept.
    """

    folder: Path
    stem: Callable[[Tensor], Inputs]
    part: Part
    shapes: Sequence[Sequence[int]]
    dtype: torch.dtype
    device: str
    judge: Callable[[Inputs], Tensor] | None

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def row_bytes(self) -> list[int]:
        return [torch.Size(shape[1:]).numel() * self.dtype.itemsize for shape in self.shapes]

    @property
    def bytes(self) -> int:
        return len(self.part) * sum(self.row_bytes)

    def run(self) -> dict[str, Any]:
        """Build what is missing, and give the card."""
        paths = [self.folder / f"{place}.bin" for place in range(len(self.shapes))]
        for half_written in self.folder.glob(".*.tmp"):
            half_written.unlink()
        for path in paths:
            path.touch()
        files = [path.open("r+b") for path in paths]
        try:
            progress = _Progress(files, self.row_bytes, self.journal)
            self._write(progress)
        finally:
            for file in files:
                file.close()
        if self.judge is not None:
            exact, kept = (correct / len(self.part) for correct in progress.correct)
            logger.info(f"cache: features as {self.dtype}: accuracy {kept:.4f}, in full precision {exact:.4f}")
        return {
            "format": FORMAT,
            "shapes": self.shapes,
            "dtype": str(self.dtype),
            "sha256": progress.sha256,
            **({"correct": progress.correct} if self.judge else {}),
        }

    def _write(self, progress: "_Progress") -> None:
        count, there, began = len(self.part), progress.rows, time.monotonic()
        said = began
        if there < count:
            known = f" ({there} are there already)" if there else ""
            logger.info(
                f"cache: the frozen layers run once over {count - there} images{known}, {self.bytes / 1e9:.2f} GB"
            )
        for images, labels in self.part.batches(BATCH, torch.arange(there, count)):
            check_stop()
            progress.append(*self._computed(images, labels), last=progress.rows + len(labels) == count)
            now = time.monotonic()
            if now - said > SAY_EVERY:
                said, rate = now, (progress.rows - there) / (now - began)
                left = (count - progress.rows) / rate
                logger.info(f"cache: {progress.rows}/{count} images, {rate:.0f} a second, {left:.0f} s left")

    @torch.no_grad()
    def _computed(self, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[int]]:
        """The tensors as they are kept, and right answers: exact, and of what is kept."""
        exact = self.stem(images.to(self.device))
        kept = [tensor.to("cpu", self.dtype).contiguous() for tensor in exact]
        if self.judge is None:
            return kept, [0, 0]
        rounded = tuple(tensor.to(exact[0]) for tensor in kept)
        return kept, [int((self.judge(each).argmax(1).cpu() == labels).sum()) for each in (exact, rounded)]


class _Progress:
    """Files that grow, and the journal of it: the rows up to which they are sound, and the sha256 up to there."""

    def __init__(self, files: Sequence[BinaryIO], row_bytes: Sequence[int], journal: Path) -> None:
        self.files, self.row_bytes, self.journal = files, row_bytes, journal
        self.rows, self.correct = 0, [0, 0]
        self._digests = [hashlib.sha256() for _ in files]
        self._unnoted = 0
        sound = list(self._sound_lines())
        for file, row in zip(files, row_bytes, strict=True):
            file.truncate(self.rows * row)
            file.seek(self.rows * row)
        journal.write_text("".join(f"{line}\n" for line in sound))

    @property
    def sha256(self) -> list[str]:
        return [digest.hexdigest() for digest in self._digests]

    def _sound_lines(self) -> Iterator[str]:
        """Lines of an earlier build's journal whose rows are there, unchanged."""
        for line in self.journal.read_bytes().splitlines() if self.journal.exists() else []:
            try:
                noted = json.loads(line)
                rows, correct, sha256 = (noted[name] for name in ("rows", "correct", "sha256"))
            except (ValueError, TypeError, KeyError):  # the build was killed while it wrote this, or it is damaged
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

    def append(self, tensors: Sequence[Tensor], correct: Sequence[int], *, last: bool) -> None:
        for file, digest, tensor in zip(self.files, self._digests, tensors, strict=True):
            data = tensor.view(torch.uint8).numpy().data
            digest.update(data)
            file.write(data)
            self._unnoted += tensor.nbytes
        self.rows += len(tensors[0])
        self.correct = [a + b for a, b in zip(self.correct, correct, strict=True)]
        if last or self._unnoted >= JOURNAL_BYTES:
            self._note()

    def _note(self) -> None:
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
        with self.journal.open("a") as journal:
            journal.write(json.dumps({"rows": self.rows, "correct": self.correct, "sha256": self.sha256}) + "\n")
        self._unnoted = 0
