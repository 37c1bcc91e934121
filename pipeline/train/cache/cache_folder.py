"""Folders of a cache on disk: one builds while others wait, whoever uses one keeps it there, the oldest go first."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError
from pipeline.locks import locked, share

logger = logging.getLogger(__name__)

CARD = "card.json"
"""Written last: a folder without it is not complete."""


_kept: dict[Path, int] = {}
"""Folders that this process computes with, and the handles of their locks."""


@contextmanager
def lock(folder: Path, *, alone: bool) -> Iterator[int]:
    """Hold a folder, alone or beside other readers. The file that is locked lies beside it, so it may be removed.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if alone and folder in _kept:  # this process knows what it does
        os.close(_kept.pop(folder))
    with locked(Path(f"{folder}.lock"), shared=not alone) as handle:
        yield handle


def keep(folder: Path, handle: int) -> None:
    """Hold a locked folder against removal as long as this process lives, beside other readers."""
    os.utime(folder)
    if folder in _kept:
        os.close(_kept[folder])
    _kept[folder] = os.dup(handle)
    share(handle)


def is_in_use(folder: Path) -> bool:
    """Whether another process builds it, or computes with it."""
    try:
        with lock(folder, alone=True):
            return False
    except BlockingIOError:
        return True


def discard(folder: Path) -> bool:
    """Remove a folder, unless a process computes with it or builds it."""
    if folder in _kept:
        return False
    try:
        with lock(folder, alone=True):
            shutil.rmtree(folder, ignore_errors=True)  # another process may have been quicker
        return True
    except BlockingIOError:
        return False


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a complete folder."""
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text())
        return card if isinstance(card["sha256"], list) else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
        return None


def make_room(folder: Path, needed: int, limit: int) -> bool:
    """Remove the oldest folders beside ``folder`` until it fits the limit; False where it never will.

    Raises:
        StorageError: The disk has less room than it needs.
    """
    if needed > limit:
        return False
    others = sorted((each for each in folder.parent.iterdir() if each.is_dir() and each != folder), key=_age)
    sizes = {each: size(each) for each in others}
    for oldest in others:
        if needed + sum(sizes.values()) <= limit:
            break
        if discard(oldest):
            logger.info(
                f"cache: removed {oldest.name}, the oldest, {sizes.pop(oldest) / 1e9:.2f} GB, for --cache-limit"
            )
    if needed + sum(sizes.values()) > limit:
        return False
    free = shutil.disk_usage(folder.parent).free
    missing = needed - (size(folder) if folder.exists() else 0)
    if missing > free:
        raise StorageError(
            f"the cache of the frozen layers takes {needed:,} bytes in {folder}, and {free:,} are free; make room, or "
            f'give compute.cache = "float16" (half as large) or "off" (slow)'
        )
    return True


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def size(folder: Path) -> int:
    """Bytes of the files of a folder, less those that another process removes meanwhile."""
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
