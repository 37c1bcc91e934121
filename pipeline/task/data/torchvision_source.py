"""What MNIST, CIFAR-10 and CIFAR-100 share: torchvision reads them; here their folder is found, their faults named."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import IntegrityError
from pipeline.task.data.contract import ArrayItems, FolderSource, Images


class TorchvisionSource(FolderSource):
    """A data set that torchvision reads and can download."""

    download: bool = False
    """Fetch it into the folder where it is not there yet."""

    @abstractmethod
    def reader(self) -> Callable[..., Any]:
        """The class of torchvision for it."""

    @abstractmethod
    def holds(self) -> str:
        """The folder that torchvision looks for below the root."""

    def open(self) -> Images:
        reader, root = self.reader(), self._root()
        try:
            train, test = (reader(root=root, train=train, download=self.download) for train in (True, False))
        except Exception as error:
            # torchvision raises whatever its parsers happen to: RuntimeError, ValueError, AssertionError, EOFError, ...
            if self.download:
                raise self.absent(self.holds(), f"downloading failed ({error}); try again with a network") from error
            raise IntegrityError(
                f"data set '{self.name}' in {root} is damaged: {error or type(error).__name__}; remove "
                f"{root / self.holds()} and get it again with task.data.download = true"
            ) from error
        items = [
            ArrayItems(f"{self.name} {part}", torch.as_tensor(data.data), torch.as_tensor(data.targets))
            for part, data in (("train", train), ("test", test))
        ]
        return Images(train=items[0], test=items[1], classes=tuple(train.classes))

    def _root(self) -> Path:
        folders = self.candidates()
        found = [folder for folder in folders if (folder / self.holds()).is_dir()]
        if found:
            return found[0]
        if self.download and folders:
            return folders[0]
        raise self.absent(self.holds(), "set task.data.download = true once with a network, or copy it there")
