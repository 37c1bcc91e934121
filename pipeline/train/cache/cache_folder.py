"""Folders of a cache on disk: locks between processes that build and read them, and removal of the oldest."""

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
from pipeline.paths import read_text
from pipeline.wording import readable_bytes

logger = logging.getLogger(__name__)

CARD = "card.json"
"""Written last; a folder without it is incomplete."""

_in_use: dict[Path, int] = {}
"""Handles of the shared locks on the folders that this process reads."""


@contextmanager
def lock(folder: Path, *, exclusive: bool) -> Iterator[int]:
    """Lock a folder, which need not exist; yields the handle of the lock file beside it.

    Readers share a lock. An exclusive one, to build or to remove, takes the place of this process's own shared lock.
    If another process holds a lock that excludes this one, a ``BlockingIOError`` is raised.
    """
    if exclusive and folder in _in_use:
        os.close(_in_use.pop(folder))
    with locked(Path(f"{folder}.lock"), shared=not exclusive) as handle:
        yield handle


def use(folder: Path, handle: int) -> None:
    """Share the lock of a folder until this process ends, so that nobody removes it; its last use is now."""
    os.utime(folder)
    if folder in _in_use:
        os.close(_in_use[folder])
    _in_use[folder] = os.dup(handle)
    share(handle)


def is_in_use(folder: Path) -> bool:
    """Whether another process builds or reads a folder."""
    try:
        with lock(folder, exclusive=True):
            return False
    except BlockingIOError:
        return True


def remove_unused(folder: Path) -> bool:
    """Remove a folder unless a process builds or reads it; returns whether it was removed."""
    if folder in _in_use:
        return False
    try:
        with lock(folder, exclusive=True):
            shutil.rmtree(folder, ignore_errors=True)  # another process may have removed it
        return True
    except BlockingIOError:
        return False


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a folder; ``None`` if the folder is incomplete or the card damaged."""
    try:
        card: dict[str, Any] = json.loads(read_text(folder / CARD))
        return card if isinstance(card["sha256"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_room(folder: Path, needed: int, limit: int) -> bool:
    """Remove the least recently used folders beside ``folder`` until ``needed`` bytes for it fit the limit.

    Returns whether they fit in the end; a ``StorageError`` says that the disk has too little free space.
    """
    if needed > limit:
        return False
    others = sorted((path for path in folder.parent.iterdir() if path.is_dir() and path != folder), key=_last_use)
    sizes = {path: size(path) for path in others}
    for oldest in others:
        if needed + sum(sizes.values()) <= limit:
            break
        if remove_unused(oldest):
            freed = readable_bytes(sizes.pop(oldest))
            logger.info(f"cache: removed {oldest.name}, the least recently used, {freed}, to stay in --cache-limit")
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


def _last_use(folder: Path) -> float:
    """Seconds since 1970; 0 if another process has removed the folder."""
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime
    return 0.0


def size(folder: Path) -> int:
    """Bytes of the files of a folder; files that another process removes meanwhile are not counted."""
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
