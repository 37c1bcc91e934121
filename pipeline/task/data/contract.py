"""The contract of data sets: labels are known at once, images are decoded when they are asked for."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from pipeline.config.registry import Method
from pipeline.errors import IntegrityError
from pipeline.hashes import file_sha256, hash_tensors
from pipeline.task.data.decode import as_rgb, decode
from pipeline.wording import printable


class Items(ABC):
    """Images and labels. An image is decoded when it is asked for; several threads may read at once."""

    labels: Tensor
    """``[N]``, int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        """An RGB image and its label.

        Raises:
            IntegrityError: The image cannot be decoded; with its path and the reason.
        """
        return as_rgb(self.stored(index), self.where(index)), int(self.labels[index])

    @abstractmethod
    def stored(self, index: int) -> Image.Image:
        """The decoded image in the mode that it is stored in."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The image's name in messages: its path, or its part and index."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of every image and label."""


@dataclass(frozen=True)
class Images:
    """An opened data set."""

    train: Items
    test: Items | None
    """``None`` if the data set has no test images, and a test part is split off ``train``."""
    classes: tuple[str, ...]
    """Names of the classes, by label."""
    published: bool = False
    """Whether the data set is a fixed benchmark, whose images nobody should change."""
    val: Items | None = None
    """``None`` if the data set has no validation images, and a validation part is split off ``train``."""
    notes: tuple[str, ...] = ()
    """What was read and what was left out, one phrase each."""

    def parts(self) -> dict[str, Items]:
        """The parts that the data set has, by name: ``train``, ``val`` and ``test``."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: items for name, items in parts.items() if items is not None}

    def fingerprint(self) -> str:
        """sha256 of the classes, images and labels; the same in whatever folder they lie."""
        parts = [self.train.fingerprint(), self.test.fingerprint() if self.test is not None else "no test part"]
        parts += [self.val.fingerprint()] if self.val is not None else []
        return hashlib.sha256("\n".join([*self.classes, *parts]).encode("utf-8", "surrogatepass")).hexdigest()


class ArrayItems(Items):
    """Images in one array, ``[N, height, width]`` or ``[N, height, width, 3]``, uint8; ``name`` is for messages."""

    def __init__(self, name: str, images: Tensor, labels: Tensor) -> None:
        self.labels = labels.long()
        self._name, self._images = name, images

    def stored(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index].numpy())

    def where(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def fingerprint(self) -> str:
        return hash_tensors([("images", self._images), ("labels", self.labels)])


class FileItems(Items):
    """Images in files below ``folder``."""

    def __init__(self, folder: Path, paths: Sequence[Path], labels: Sequence[int]) -> None:
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self._folder, self._paths = folder, paths

    def stored(self, index: int) -> Image.Image:
        return decode(self._paths[index])

    def where(self, index: int) -> str:
        return printable(self._paths[index])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path, label in zip(self._paths, self.labels.tolist(), strict=True):
            below = path.relative_to(self._folder).as_posix()
            digest.update(f"{below} {label} ".encode("utf-8", "surrogatepass"))
            try:
                digest.update(bytes.fromhex(file_sha256(path)))
            except OSError as error:
                raise IntegrityError(
                    f"{printable(path)} cannot be read: {error.strerror}; was the data set changed?"
                ) from None
        return digest.hexdigest()


class DataSource(Method):
    """A registered kind of data set; its fields are the options of ``[task.data]``."""

    location: ClassVar[frozenset[str]] = frozenset({"root", "download"})
    """Options that say where the data lie, and not what they are: a study may go on with others of the same data."""

    @abstractmethod
    def open(self) -> Images:
        """Find the data set and read its labels; no image is decoded yet.

        Raises:
            IntegrityError: The data set is not there, or damaged.
        """


class FolderSource(DataSource):
    """A data set in a folder of the user's."""

    root: str | None = None
    """Folder of the data; else ``RESTORA_DATA/<name>``, else ``RESTORA_DATA``."""

    def candidates(self) -> list[Path]:
        """The folders to search, in this order."""
        if self.root is not None:
            return [Path(self.root).expanduser()]
        given = os.environ.get("RESTORA_DATA")
        return [Path(given).expanduser() / self.name, Path(given).expanduser()] if given else []

    def not_found(self, wanted: str, how: str) -> IntegrityError:
        """The error of a data set that is not there; ``how`` to get ``wanted`` is a clause."""
        searched = [f"{printable(folder)}{_missing(folder)}" for folder in self.candidates()]
        where = f" in {' and '.join(searched)}" if searched else ", but neither root nor RESTORA_DATA is given"
        return IntegrityError(
            f"data set '{self.name}' is not there: looked for {wanted}{where}; {how}, and give its folder as "
            f"task.data.root or in the environment as RESTORA_DATA"
        )


def _missing(folder: Path) -> str:
    if folder.is_dir():
        return ""
    return " (a file; unpack it)" if folder.exists() else " (no such folder)"
