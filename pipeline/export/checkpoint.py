"""The exported folder: ``model.safetensors`` holds the packed tensors, ``card.json`` everything known of them."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.compress.attention import bare_state, with_plain_attention
from pipeline.compress.by_layer import by_layer
from pipeline.compress.folding import reshape_folded
from pipeline.compress.small_tensors import widened
from pipeline.config.registry import ADAPTERS, COMPRESSIONS
from pipeline.errors import IntegrityError, SpecError, StorageError, UsageError
from pipeline.export.joined import header_bytes, separate
from pipeline.export.pack import PackedMethod, unpack_model
from pipeline.hashes import bytes_sha256, fingerprint
from pipeline.paths import read_text
from pipeline.task.bare_model import WEIGHTED, bare
from pipeline.task.inspection import first_keys
from pipeline.task.prepare import rebuild
from pipeline.task.tensor_cache import restore_state

FORMAT = 2
"""Version of the folder's layout. Format 1, of version 0.1.0, has no ``card_sha256``."""
WEIGHTS, CARD = "model.safetensors", "card.json"
REQUIRED = (
    "sha256", "task.classes", "method.compression", "method.layers", "method.adapter", "method.values",
)  # fmt: skip
"""Keys of a card that loading needs; a dot leads into an inner table."""


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], card: dict[str, Any], *, force: bool) -> Path:
    """Write the folder of a checkpoint as a whole, or not at all.

    The file's sizes in bytes and both sha256 are added to the card. Without ``force`` no folder is replaced.
    """
    refuse_existing(folder, force=force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            data = save(dict(tensors))
            (new / WEIGHTS).write_bytes(data)
            header = 8 + int.from_bytes(data[:8], "little") + header_bytes(tensors)
            card["size"] |= {"file_bytes": len(data), "header_bytes": header, "tensor_bytes": len(data) - header}
            card = {"format": FORMAT, **card, "sha256": bytes_sha256(data)}
            card["card_sha256"] = fingerprint(card)
            (new / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
            _swap_in(new, folder, Path(temporary) / "old")
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error}; free space or name another folder") from error
    return folder


def refuse_existing(folder: Path, *, force: bool) -> None:
    """Raise ``UsageError`` if a checkpoint exists, before any work is done for another."""
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists already; give --force to replace it")


def _swap_in(new: Path, folder: Path, old: Path) -> None:
    """Rename ``new`` to ``folder``. An existing ``folder`` moves to ``old``, and comes back if the rename fails."""
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
    """Read the card of a checkpoint's folder; an ``IntegrityError`` says how it is missing, damaged or unknown."""
    path = folder / CARD
    try:
        card: dict[str, Any] = json.loads(read_text(path))
        if not isinstance(card, dict):
            raise ValueError(f"{CARD} holds no table")
    except OSError as error:
        siblings = sorted(card.parent.name for card in folder.parent.glob(f"*/{CARD}"))
        others = f"; beside it: {', '.join(siblings)}" if siblings else ""
        raise IntegrityError(
            f"{folder} is not an exported checkpoint: {error}{others}; `restora export` writes one"
        ) from None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}; export it again") from None
    tables = {"": card, **{f"{name}.": table for name, table in card.items() if isinstance(table, dict)}}
    version = tables.get("versions.", {}).get("restora")
    if card.get("format") not in (1, FORMAT):
        raise IntegrityError(
            f"{path} has format {card.get('format')}, written by version {version}; this version reads formats 1 to "
            f"{FORMAT}: load it with the version that wrote it, or export it again"
        )
    expected = card.get("card_sha256")
    found = fingerprint({key: value for key, value in card.items() if key != "card_sha256"})
    if card["format"] > 1 and found != expected:
        raise IntegrityError(
            f"{path} has changed since it was written: its content has sha256 {found}, expected {expected}; export it "
            f"again"
        )
    keys = {f"{prefix}{key}" for prefix, table in tables.items() for key in table}
    missing = [key for key in REQUIRED if key not in keys]
    if missing:
        raise IntegrityError(f"{path}, written by version {version}, lacks {', '.join(missing)}; export it again")
    return card


def load(path: str | Path, model: nn.Module | None = None, *, merge: bool = False) -> nn.Module:
    """Load the recovered model of an exported checkpoint, frozen, in eval mode.

    It is made of plain modules, and behaves as the bare architecture does. Each layer with a low-rank adapter is a
    Linear or Conv2d with the dense form of its compressed weight and the further parameters ``lora_A [r, in]``,
    ``lora_B [out, r]`` and, for DoRA, ``magnitude [out]``.

    Args:
        path: The exported folder, ``storage/exports/<study>/<combination>/rank-<r>``.
        model: The bare architecture, needed where the checkpoint is of a module of your own. Its tensors are replaced;
            their dtype and their device stay.
        merge: Whether to add the adapters to the weights. The result is the bare architecture itself, with its own
            modules and tensor names; after structured pruning it is the bare architecture with fewer channels.

    Raises:
        IntegrityError: A file is damaged or changed, the tensors do not fit the architecture, or ``model`` is
            TorchScript or has layers without values.
        UsageError: ``model`` was loaded from a checkpoint before; or ``merge`` is True, and layers that share a weight
            in the architecture have adapters that differ.
        SpecError: ``merge`` is True, and the adapter is a plug-in's that cannot be merged.
    """
    card, tensors = _verified(Path(path))
    with torch.device("cpu"):  # stored tensors are unpacked there, whatever the default device
        architecture = bare(model) if model is not None else rebuild(card["task"])
        restored = _restored(architecture, card, tensors, merge=merge)
    return model if merge and isinstance(model, WEIGHTED) else restored  # a single layer was put into a Sequential


def _verified(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The card of a checkpoint and its tensors."""
    card = read_card(folder)
    try:
        data = (folder / WEIGHTS).read_bytes()  # read once, so that what is loaded is what was verified
        found = bytes_sha256(data)
        if found != card["sha256"]:
            raise IntegrityError(
                f"{folder / WEIGHTS} has sha256 {found}, its card expects {card['sha256']}: it is damaged, or of "
                f"another checkpoint; export it again"
            )
        tensors = separate(load_tensors(data))
        return card, widened(tensors) if card.get("storage", {}).get("small") == "float16" else tensors
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"cannot read {folder / WEIGHTS}: {error}; export it again") from None


def _restored(
    architecture: nn.Module, card: dict[str, Any], tensors: Mapping[str, Tensor], *, merge: bool
) -> nn.Module:
    """The model of a checkpoint, from its bare ``architecture``, whose tensors are replaced."""
    method = card["method"]
    reshape_folded(architecture, method.get("folded", {}))
    # Cards without "qkv" were written before attention could be split: it stays as it is.
    rewritten = with_plain_attention(architecture, method["qkv"], tensors) if "qkv" in method else architecture
    restore_state(rewritten, card["task"].get("extra_state", {}))
    try:
        packed = PackedMethod(
            compression=by_layer(
                COMPRESSIONS.parse(method["compression"]),
                {name: COMPRESSIONS.parse(own) for name, own in method.get("compressions", {}).items()},
            ),
            layers=method["layers"],
            adapter=ADAPTERS.parse(method["adapter"]),
            alpha=method["values"].get("alpha", 1.0),  # only low-rank adapters have an alpha
            head=card["task"].get("head", ()),
            ranks=method.get("ranks"),
        )
    except (ValueError, SpecError) as error:
        raise IntegrityError(
            f"{CARD} names a compression or an adapter that cannot be built here: {error}; install the "
            f"package that registers it, or export it again"
        ) from None
    ties = first_keys(architecture)
    loaded = unpack_model(rewritten, tensors, packed, merge=merge)
    if not merge:
        return loaded
    state = bare_state(loaded)
    _refuse_untied(state, ties)
    if loaded is not architecture:
        packed.compression.reshape(architecture, state)
        restore_state(architecture, state)
    return architecture.eval().requires_grad_(False)


def _refuse_untied(state: Mapping[str, Tensor], ties: Mapping[str, str]) -> None:
    """Raise ``UsageError`` if a merged ``state`` differs where the architecture has one tensor under two keys."""
    for key, first in ties.items():
        if not torch.equal(state[key], state[first]):
            raise UsageError(
                f"merge=True needs '{key}' and '{first}' to be one tensor, as in the architecture, but they were "
                f"trained apart; load it without merge"
            )
