"""A folder of images, with one folder per class."""

from pathlib import Path

from pipeline.config.registry import DATASETS
from pipeline.errors import IntegrityError
from pipeline.task.data.contract import FileItems, FolderSource, Images

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@DATASETS.register("image-folder")
class ImageFolder(FolderSource):
    """Your own images: ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` alone.

    If there is ``val`` and no ``test``, as in ImageNet, ``val`` is the test part; the validation part is split off
    ``train``.
    """

    def open(self) -> Images:
        root = next((folder for folder in self.candidates() if folder.is_dir() and _folders(folder)), None)
        if root is None:
            raise self.not_found(
                "folders train/<class> and test/<class>, or <class>", "put the images into one folder per class"
            )
        train = root / "train" if (root / "train").is_dir() else root
        test = next((root / name for name in ("test", "val") if train != root and (root / name).is_dir()), None)
        classes = _folders(train)
        if not classes:
            raise IntegrityError(f"{train} has no class folders; give one folder per class")
        if test and (foreign := sorted(set(_folders(test)) - set(classes))):
            raise IntegrityError(
                f"{test} has class '{foreign[0]}', which {train} lacks; give both the same class folders"
            )
        return Images(_items(train, classes), _items(test, classes) if test else None, tuple(classes))


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _items(folder: Path, classes: list[str]) -> FileItems:
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    return FileItems(folder, paths, labels)
