"""Which folders are the training, validation and test part, and which are classes, by their names and contents."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from pipeline.errors import IntegrityError
from pipeline.task.data.folder_tree import Folder
from pipeline.wording import printable, quoted

PART_WORDS = {
    "train": "train", "training": "train", "trainval": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "eval": "val", "evaluation": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""The part that a word in a folder's name says."""


def part_of(name: str) -> str | None:
    """The part that a folder's name says in any case, with other words around it; ``None`` for no part or several.

    >>> part_of("Training"), part_of("seg_test"), part_of("valSet2"), part_of("constrained")
    ('train', 'test', 'val', None)
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    said = {PART_WORDS[word] for word in (word.removesuffix("set") for word in words) if word in PART_WORDS}
    return said.pop() if len(said) == 1 else None


def find_parts(root: Folder) -> dict[str, Folder]:
    """The folders ``train``, ``val`` and ``test`` that hold class folders; ``train`` alone if there is no split.

    A folder is a part if its name says so and it holds folders itself, so that a class may be called ``test``. If there
    is a validation part and no test part, as in ImageNet, it is the test part.

    Raises:
        IntegrityError: Names and contents leave open what is a part and what is a class.
    """
    top = unwrapped(root)
    named = defaultdict[str, list[Folder]](list)
    for name, folder in top.folders.items():
        if (part := part_of(name)) and _holds_classes(folder) and (folder.has_images or part == "train"):
            named[part].append(folder)
    if "train" not in named:
        if why := _why_unclear(top):
            raise _unclear(top, why)
        return {"train": top}
    parts = {part: _only(top, part, folders) for part, folders in named.items()}
    others = [name for name, folder in top.folders.items() if folder not in parts.values() and folder.has_images]
    if len(parts) == 1 and others:
        train = quoted([parts["train"].path.name])
        raise _unclear(top, f"{train} holds class folders, and beside it lies {quoted(others)}")
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    classes = unwrapped(parts["train"]).folders
    return {part: unwrapped(folder, classes if part != "train" else ()) for part, folder in parts.items()}


def unwrapped(folder: Folder, classes: Iterable[str] = ()) -> Folder:
    """The folder that holds the class folders: while a folder holds only one, and this one holds folders, that one.

    A folder that is one of the ``classes`` of the training part is not opened.
    """
    known = set(map(class_key, classes))
    while len(folder.folders) == 1:
        ((name, only),) = folder.folders.items()
        if not (only.folders and _holds_classes(only)) or class_key(name) in known:
            break
        folder = only
    return folder


def ordered_classes(names: Iterable[str]) -> list[str]:
    """Names of classes in the order of their labels: by number if all are whole numbers, otherwise by letters."""
    names = sorted(names)
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        names.sort(key=int)
    return names


def class_key(name: str) -> str:
    """The same for names that differ only in case, in spaces around them, or in how accents are encoded."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _holds_classes(folder: Folder) -> bool:
    """Whether it may be a part; a class with images and one folder of more of them is none."""
    return len(folder.folders) > bool(folder.images)


def _only(top: Folder, part: str, folders: list[Folder]) -> Folder:
    """The folder of a part; if several are called so, the one whose name says nothing else."""
    plain = [folder for folder in folders if folder.path.name.lower() in PART_WORDS]
    chosen = plain if len(plain) == 1 else folders
    if len(chosen) > 1:
        raise _unclear(top, f"{quoted([folder.path.name for folder in folders])} may each be the {part} part")
    return chosen[0]


def _why_unclear(top: Folder) -> str | None:
    """Why folders without a training part may be parts and not classes; ``None`` if they are classes."""
    folders = {name: set(folder.folders) for name, folder in top.folders.items() if folder.has_images}
    said = {name: part for name in folders or top.folders if (part := part_of(name))}
    all_said = len(said) == len(folders or top.folders)
    if (all_said and len(said) > 1) or ("train" in said.values() and (all_said or len(set(said.values())) > 1)):
        return f"{quoted(said)} are called like parts and hold no class folders"
    for name, inner in folders.items():
        alike = [other for other in folders if other != name and len(folders[other] & inner) > 1]
        if name in said and (alike or inner & folders.keys()):
            return f"'{printable(name)}' holds folders that are also {f'in {quoted(alike)}' if alike else 'beside it'}"
        if len({part_of(below) for below in inner} - {None}) > 1:
            return f"'{printable(name)}' holds {quoted(sorted(inner))}, and parts hold classes, not the reverse"
    first, *others = folders.values() or [set()]
    if 1 < len(folders) <= len(set(PART_WORDS.values())) and len(first) > 1 and all(held == first for held in others):
        return f"{quoted(folders)} hold the same folders {quoted(sorted(first))}"
    return None


def _unclear(top: Folder, why: str) -> IntegrityError:
    return IntegrityError(
        f"{printable(top.path)}: it is not clear which folders are parts and which are classes: {why}; call the parts "
        f"train, val and test, each with class folders, or name them as task.data.train, val and test "
        f'(train = "." if the folders are the classes)'
    )
