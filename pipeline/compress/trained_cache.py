"""Compressions that train are done once: what came of them is kept, and the same for every run and export."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from pipeline.compress.contract import CompressedModel, Compression, LayerStats
from pipeline.hashes import fingerprint
from pipeline.paths import COMPRESSED
from pipeline.task.contract import Task
from pipeline.task.tensor_cache import read_tensors, write_tensors


def compress_once(
    compression: Compression,
    task: Task,
    model: nn.Module,
    targets: Sequence[str],
    stats: Mapping[str, Sequence[LayerStats]],
) -> CompressedModel:
    """The compressed model of a task; one that is trained comes from its file, where there is a sound one.

    Args:
        compression: What compresses.
        task: What it is trained on.
        model: The task's model, its attention arranged.
        targets: Names of the layers.
        stats: Statistics of their inputs, where they are needed.
    """
    if not compression.trains or not task.trained:
        return compression.compress_model(model, targets, stats, task.train)
    names = [name for name, _ in model.named_parameters()]
    key = fingerprint([compression.model_dump(mode="json"), list(targets), names, dict(task.hashes)])
    path = COMPRESSED / f"{key}.safetensors"
    tensors = _sound(path)
    if tensors is not None:
        return compression.restored(model, targets, tensors)
    compressed = compression.compress_model(model, targets, stats, task.train)
    write_tensors(path, compressed.model.state_dict())
    return compressed


def _sound(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a kept file; none where it is not there, or damaged: it is then made again."""
    try:
        return read_tensors(path) if path.exists() else None
    except Exception:
        # A damaged header makes the reader raise nearly anything, and whatever it is, the cure is the same.
        return None
