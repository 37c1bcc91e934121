"""The images and folders below a folder, read in one walk. What is left out is counted by kind."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import features

from pipeline.errors import IntegrityError
from pipeline.wording import printable

SUFFIXES = {
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    *([".avif"] if "avif" in features.modules and features.check("avif") else []),
}  # fmt: skip
"""Suffixes of the files that are read as images, in lower case."""
SYSTEM_FOLDERS = {
    "__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
"""Folders that systems and programs make by themselves, in lower case."""

Identity = tuple[int, int]
"""Device and inode of a folder; the same by whatever link it is reached."""


@dataclass(eq=False)
class Folder:
    """A folder that was read, with all folders below it."""

    path: Path
    images: list[Path] = field(default_factory=list)
    """The image files that lie directly in it."""
    folders: dict[str, "Folder"] = field(default_factory=dict)
    """The folders that lie directly in it, by name, without those that are left out."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many files, folders and links that lie directly in it are left out, by kind."""

    @property
    def all_images(self) -> list[Path]:
        """The images in it and in the folders below, sorted."""
        return sorted([*self.images, *(image for folder in self.folders.values() for image in folder.all_images)])

    @property
    def has_images(self) -> bool:
        """Whether there is an image in it or in the folders below."""
        return bool(self.images) or any(folder.has_images for folder in self.folders.values())

    @property
    def all_left_out(self) -> Counter[str]:
        """``left_out`` of it and of the folders below together."""
        return sum((folder.all_left_out for folder in self.folders.values()), self.left_out)

    def folder(self, name: str) -> "Folder":
        """The folder at a path below this one; ``.`` is this one.

        Raises:
            IntegrityError: It is not there.
        """
        found = self
        for part in Path(name).parts:
            if part not in found.folders:
                known = ", ".join(map(printable, found.folders)) or "none"
                raise IntegrityError(f"{printable(self.path)} has no folder '{name}'; folders there: {known}")
            found = found.folders[part]
        return found


def read_folder(path: Path, above: frozenset[Identity] = frozenset()) -> Folder:
    """Read a folder and all below it. Links are followed, unless they lead to one of the folders ``above``.

    Raises:
        IntegrityError: A folder cannot be read.
    """
    try:
        within = above | {_identity(path)}
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise IntegrityError(
            f"folder {printable(path)} cannot be read: {error.strerror}; allow reading it, or move it elsewhere"
        ) from None
    folder = Folder(path)
    for entry in found:
        if kind := _why_left_out(entry, within):
            folder.left_out[kind] += 1
        elif entry.is_dir():
            folder.folders[entry.name] = read_folder(path / entry.name, within)
        else:
            folder.images.append(path / entry.name)
    return folder


def _why_left_out(entry: os.DirEntry[str], within: frozenset[Identity]) -> str | None:
    """The kind of a file, folder or link that is left out, in the plural; ``None`` for one that is read."""
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a link that leads to itself
        is_folder = is_file = False
    if entry.name.startswith("."):
        return "hidden folders" if is_folder else "hidden files"
    if is_folder:
        if entry.name.lower() in SYSTEM_FOLDERS:
            return f"{entry.name} folders"
        if suffix in SUFFIXES:
            return f"folders named {suffix}"
        return "circular links" if entry.is_symlink() and _identity(entry) in within else None
    if not is_file:
        return "broken links" if entry.is_symlink() else "special files"
    if suffix not in SUFFIXES:
        return f"{printable(suffix)} files" if suffix else "files without a suffix"
    return None


def _identity(path: "os.PathLike[str]") -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino
