"""What was read below a folder and what was left out, in phrases for people."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.task.data.folder_parts import class_key
from pipeline.task.data.folder_tree import Folder
from pipeline.wording import counted, listed, printable, quoted

NAMES = {"train": "training", "val": "validation", "test": "test"}

Held = Mapping[str, Mapping[str, list[Folder]]]
"""The folders of each class of each part."""


def folder_notes(root: Folder, parts: Mapping[str, Folder], held: Held) -> Iterator[str]:
    """Where the parts were read, the order of numbered classes, how their names differ, and what was left out."""
    if parts["train"] is not root:
        read = [f"{said} images from {_below(root, parts[part])}" for part, said in NAMES.items() if part in parts]
        split = [said for part, said in NAMES.items() if part not in parts]
        yield listed(read) + (f"; {listed(split)} images are split off the training images" if split else "")
    classes = list(held["train"])
    if classes != sorted(classes):
        yield f"classes are in the order of their numbers: {quoted(classes)}"
    alike = defaultdict[str, list[str]](list)
    for name in classes:
        alike[class_key(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"classes {quoted(names)} differ only in case, spaces or the encoding of accents"
    for part, by_class in held.items():
        for name, folders in by_class.items():
            if others := [folder.path.name for folder in folders if folder.path.name != name]:
                yield f"{NAMES[part]} images of {quoted(others)} are of class {quoted([name])}"
    unread = [said] if (said := left_out(root)) else []
    read_whole = {folder for by_class in held.values() for folders in by_class.values() for folder in folders}
    unread += _unread(root, root, [folder.path for folder in parts.values()], read_whole)
    if unread:
        yield f"left out: {', '.join(unread)}"


def left_out(folder: Folder) -> str:
    """What lies in a folder and below and is neither an image nor a folder, with counts; empty if there is nothing."""
    return ", ".join(f"{kind} ({count:,})" for kind, count in sorted(folder.all_left_out.items()))


def _unread(root: Folder, folder: Folder, parts: list[Path], read: set[Folder]) -> Iterator[str]:
    """What lies in a folder that holds class folders or parts, and is not read."""
    if folder.images:
        beside = "" if folder is root else f" of {_below(root, folder)}"
        yield f"images beside the folders{beside} ({len(folder.images):,})"
    for inner in folder.folders.values():
        if any(part.is_relative_to(inner.path) for part in parts):
            yield from _unread(root, inner, parts, read)
        elif inner not in read:
            yield f"folder {_below(root, inner)} ({counted(len(inner.all_images), 'image')})"


def _below(root: Folder, folder: Folder) -> str:
    return printable(folder.path.relative_to(root.path).as_posix())
