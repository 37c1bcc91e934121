"""The exported folder: ``model.safetensors`` and ``card.json``."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.compress.attention import arranged
from pipeline.config.registry import ADAPTERS, COMPRESSIONS
from pipeline.errors import IntegrityError, StorageError, UsageError
from pipeline.export.pack import unpack_model
from pipeline.task import rebuild

FORMAT = 1
"""Version of the folder's layout."""
WEIGHTS, CARD = "model.safetensors", "card.json"


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], card: dict[str, Any], *, force: bool) -> Path:
    """Write a checkpoint's folder as a whole, or not at all.

    Args:
        folder: Where it will lie.
        tensors: What ``pack_model`` gave.
        card: Everything known of it; file sizes and sha256 are added here.
        force: Whether to take the place of a folder that is there.

    Raises:
        UsageError: The folder is there and ``force`` was not given.
        StorageError: It cannot be written.
    """
    refuse_existing(folder, force=force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            data = save(dict(tensors))
            (new / WEIGHTS).write_bytes(data)
            header = 8 + int.from_bytes(data[:8], "little")
            card["size"] |= {"file_bytes": len(data), "header_bytes": header, "tensor_bytes": len(data) - header}
            card = {"format": FORMAT, **card, "sha256": hashlib.sha256(data).hexdigest()}
            (new / CARD).write_text(json.dumps(card, indent=2) + "\n")
            _swap_in(new, folder, Path(temporary) / "old")
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error}; free space or name another folder") from error
    return folder


def refuse_existing(folder: Path, *, force: bool) -> None:
    """Refuse to take the place of a checkpoint, before any work is done for it.

    Raises:
        UsageError: The folder is there and ``force`` was not given.
    """
    if folder.exists() and not force:
        raise UsageError(f"{folder} is there already; give --force to replace it")


def _swap_in(new: Path, folder: Path, old: Path) -> None:
    """Let ``new`` take the place of ``folder``, which goes to ``old``, or comes back where that fails."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint's folder.

    Raises:
        IntegrityError: It is not there, not a card, or of a version that is not known here.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text())
        if not isinstance(card, dict):
            raise ValueError(f"{CARD} is not a table")
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{folder} is not an exported checkpoint: {error}; `restora export` writes one") from None
    if card.get("format") != FORMAT:
        raise IntegrityError(
            f"{folder / CARD} is of format {card.get('format')}, written by {card.get('versions', {}).get('restora')}; "
            f"this version reads format {FORMAT}"
        )
    return card


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The recovered model of an exported checkpoint, in eval mode, on the CPU.

    Args:
        path: The exported folder, ``storage/exports/<study>/<combination>/rank-<r>``.
        model: The bare architecture, where the checkpoint is of a module of your own; its tensors are replaced.

    Raises:
        IntegrityError: The files are damaged, or do not fit the architecture.
    """
    folder = Path(path)
    card = read_card(folder)
    try:
        data = (folder / WEIGHTS).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != card["sha256"]:
            raise IntegrityError(
                f"{folder / WEIGHTS} has sha256 {found}, its card says {card['sha256']}: it is damaged, or of another "
                f"checkpoint; export it again"
            )
        tensors = load_tensors(data)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"cannot read {folder / WEIGHTS}: {error}; export it again") from None
    method = card["method"]
    return unpack_model(
        _arranged(model if model is not None else rebuild(card["task"]), method),
        tensors,
        COMPRESSIONS.parse(method["compression"]),
        method["layers"],
        ADAPTERS.parse(method["adapter"]),
        method["values"].get("alpha", 1.0),  # only low-rank adapters have one
        method.get("ranks"),
    )


def _arranged(model: nn.Module, method: Mapping[str, Any]) -> nn.Module:
    """The bare architecture as it was compressed; in cards that do not say how, attention was left as it is."""
    return arranged(model, method["qkv"]) if "qkv" in method else model
