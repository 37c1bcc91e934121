"""Data sets that torchvision reads and downloads."""

from typing import ClassVar

import torch

from pipeline.errors import IntegrityError
from pipeline.task.data.contract import ArrayItems, FolderSource, Images


class TorchvisionSource(FolderSource):
    """A published data set that torchvision can read and download."""

    reader: ClassVar[str]
    """Name of its class in ``torchvision.datasets``."""
    subfolder: ClassVar[str]
    """Name of the folder that torchvision reads below the root."""

    download: bool = False
    """Download the data set into the folder if it is not there."""

    def open(self) -> Images:
        from torchvision import datasets

        folders, reader = self.candidates(), getattr(datasets, self.reader)
        found = [folder for folder in folders if (folder / self.subfolder).is_dir()]
        if not found and not (self.download and folders):
            how = "set task.data.download = true once with a network, or copy it there"
            raise self.not_found(self.subfolder, how)
        root = (found or folders)[0]
        try:
            train, test = (reader(root=root, train=train, download=self.download) for train in (True, False))
        except Exception as error:
            # torchvision lets through whatever its parsers raise: ValueError, AssertionError, EOFError, ...
            if self.download:
                raise self.not_found(
                    self.subfolder, f"downloading failed ({error}); try again with a network"
                ) from error
            raise IntegrityError(
                f"data set '{self.name}' in {root} is damaged: {error or type(error).__name__}; remove "
                f"{root / self.subfolder} and get it again with task.data.download = true"
            ) from error
        items = [
            ArrayItems(f"{self.name} {part}", torch.as_tensor(data.data), torch.as_tensor(data.targets))
            for part, data in (("train", train), ("test", test))
        ]
        return Images(train=items[0], test=items[1], classes=tuple(train.classes), published=True)
