"""What a data set is: images that are decoded when asked for, and labels that are known before."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from pipeline.config.registry import Method
from pipeline.errors import IntegrityError
from pipeline.hashes import hash_tensors
from pipeline.task.data.decode import as_rgb, decode


class Items(Protocol):
    """Images and labels; nothing is decoded until an image is asked for. Safe to read from several threads."""

    @property
    def labels(self) -> Tensor:
        """``[N]``, int64."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        """An RGB image and its label.

        Raises:
            IntegrityError: The image cannot be decoded; with its path and the reason.
        """

    def stored(self, index: int) -> Image.Image:
        """The decoded image in the mode that it is stored in."""

    def where(self, index: int) -> str:
        """What the image is called in messages."""

    def fingerprint(self) -> str:
        """sha256 of every image and label."""


@dataclass(frozen=True)
class Images:
    """A data set that has been opened. Without a test part of its own, one is split off ``train``."""

    train: Items
    test: Items | None
    classes: tuple[str, ...]

    def fingerprint(self) -> str:
        """sha256 of what the data set holds, wherever it lies."""
        parts = [self.train.fingerprint(), self.test.fingerprint() if self.test is not None else "no test part"]
        return hashlib.sha256("\n".join([*self.classes, *parts]).encode()).hexdigest()


class ArrayItems:
    """Images that come as one array.

    Args:
        name: What the part is called in messages.
        images: ``[N, height, width]`` or ``[N, height, width, 3]``, uint8.
        labels: ``[N]``.
    """

    def __init__(self, name: str, images: Tensor, labels: Tensor) -> None:
        self.labels = labels.long()
        self._name = name
        self._images = images

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return as_rgb(self.stored(index), self.where(index)), int(self.labels[index])

    def stored(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index].numpy())

    def where(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def fingerprint(self) -> str:
        return hash_tensors([("images", self._images), ("labels", self.labels)])


class FileItems:
    """Images that lie in files below ``folder``."""

    def __init__(self, folder: Path, paths: Sequence[Path], labels: Sequence[int]) -> None:
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self._folder = folder
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return as_rgb(self.stored(index), self.where(index)), int(self.labels[index])

    def stored(self, index: int) -> Image.Image:
        return decode(self._paths[index])

    def where(self, index: int) -> str:
        return str(self._paths[index])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path, label in zip(self._paths, self.labels.tolist(), strict=True):
            digest.update(f"{path.relative_to(self._folder).as_posix()} {label} ".encode())
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise IntegrityError(f"{path} cannot be read: {error.strerror}; was the data set changed?") from None
        return digest.hexdigest()


class DataSource(Method):
    """A data set by name."""

    @abstractmethod
    def open(self) -> Images:
        """Find the data set and its labels; images are not decoded yet.

        Raises:
            IntegrityError: It is not there, or damaged.
        """


class FolderSource(DataSource):
    """A data set that lies in a folder of the user's."""

    root: str | None = None
    """Folder of the data; without it, ``RESTORA_DATA/<name>`` or ``RESTORA_DATA`` itself."""

    def candidates(self) -> list[Path]:
        """The folders to look in, in that order."""
        if self.root is not None:
            return [Path(self.root).expanduser()]
        given = os.environ.get("RESTORA_DATA")
        return [Path(given).expanduser() / self.name, Path(given).expanduser()] if given else []

    def absent(self, wanted: str, how: str) -> IntegrityError:
        """The error that says what was looked for, where, and how to get it."""
        looked = " and ".join(map(str, self.candidates())) or "no folder: neither root nor RESTORA_DATA is given"
        return IntegrityError(
            f"data set '{self.name}' is not there: looked for {wanted} in {looked}; {how}, and give its folder as "
            f"task.data.root or in the environment as RESTORA_DATA"
        )
