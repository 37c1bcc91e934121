"""A folder of images, with one folder per class."""

from pathlib import Path

from pipeline.config.registry import DATASETS
from pipeline.errors import IntegrityError
from pipeline.task.data.contract import FileItems, FolderSource, Images
from pipeline.task.data.folder_notes import folder_notes, left_out
from pipeline.task.data.folder_parts import class_key, find_parts, ordered_classes
from pipeline.task.data.folder_tree import SUFFIXES, Folder, read_folder
from pipeline.task.data.torchvision_source import TorchvisionSource
from pipeline.wording import counted, listed, printable, quoted


@DATASETS.register("image-folder")
class ImageFolder(FolderSource):
    """Your own images: ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` alone.

    The parts are found by their folders' names in any case (``Training``, ``valid``, ``testing``). If there is a
    validation part and no test part, as in ImageNet, it is the test part, and the validation part is split off.
    """

    location = FolderSource.location | {"train", "val", "test"}

    train: str | None = None
    """Folder of the training part below the root, `"."` for the root; else the parts are found by their names."""
    val: str | None = None
    """Folder of the validation part; split off the training part if only `train` is given."""
    test: str | None = None
    """Folder of the test part; split off the training part if only `train` is given."""

    def open(self) -> Images:
        found = [folder for folder in map(_read, self.candidates()) if folder]
        root = next((folder for folder in found if folder.folders), None)
        if root is None:
            unread = ", ".join(filter(None, map(left_out, found)))
            how = "put the images into one folder per class" + (f" (left out there: {unread})" if unread else "")
            raise self.not_found("folders train/<class> and test/<class>, or <class>", how)
        parts = self._parts(root)
        train = parts["train"]
        classes = ordered_classes(train.folders)
        if not classes:
            raise IntegrityError(
                f"{printable(train.path)} has {counted(len(train.images), 'image')} and no class folders; give one "
                f"folder per class{_published(train.path)}"
            )
        if not train.has_images:
            raise IntegrityError(
                f"{printable(train.path)} has no image that can be read; left out: {left_out(train) or 'nothing'}; "
                f"the suffixes of images are {', '.join(sorted(SUFFIXES))}{_published(train.path)}"
            )
        held = {part: _by_class(folder, train, classes) for part, folder in parts.items()}
        items = {part: _items(folder, held[part]) for part, folder in parts.items()}
        notes = tuple(folder_notes(root, parts, held))
        return Images(items["train"], items.get("test"), tuple(classes), val=items.get("val"), notes=notes)

    def _parts(self, root: Folder) -> dict[str, Folder]:
        given = {"train": self.train, "val": self.val, "test": self.test}
        named = {part: root.folder(name) for part, name in given.items() if name is not None}
        if named and "train" not in named:
            raise IntegrityError(
                f"task.data names the folder of {listed(named)} and not that of train; give task.data.train too"
            )
        return named or find_parts(root)


def _read(path: Path) -> Folder | None:
    return read_folder(path) if path.is_dir() else None


def _published(path: Path) -> str:
    """A clause that offers the data source that reads a folder of a published data set; empty for any other folder."""
    subfolders = {source.subfolder: source.name for source in DATASETS if issubclass(source, TorchvisionSource)}
    for folder in (path, *path.parents):
        if folder.name in subfolders:
            root = printable(folder.parent)
            name = subfolders[folder.name]
            return f'; for the published data set give task.data = {{ source = "{name}", root = "{root}" }}'
    return ""


def _by_class(part: Folder, train: Folder, classes: list[str]) -> dict[str, list[Folder]]:
    """The folders of each class in a part.

    A name that differs from one class alone in case, in spaces or in the encoding of accents is that class.

    Raises:
        IntegrityError: The part has images of a class that the training part has not.
    """
    found: dict[str, list[Folder]] = {name: [] for name in classes}
    foreign = []
    for name, folder in part.folders.items():
        alike = [name] if name in found else [known for known in classes if class_key(known) == class_key(name)]
        if len(alike) == 1:
            found[alike[0]].append(folder)
        elif folder.has_images:
            foreign.append(name)
    if foreign:
        raise IntegrityError(
            f"{printable(part.path)} has images of class {quoted(foreign)}, which {printable(train.path)} lacks; give "
            f"both the same class folders"
        )
    return found


def _items(part: Folder, held: dict[str, list[Folder]]) -> FileItems:
    paths = [[path for folder in folders for path in folder.all_images] for folders in held.values()]
    labels = [label for label, found in enumerate(paths) for _ in found]
    return FileItems(part.path, [path for found in paths for path in found], labels)
