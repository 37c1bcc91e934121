"""A cache of compressions that train: each is trained once, so that all runs and exports use the same model."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from pipeline.compress.contract import CompressedModel, Compression, ModelStats
from pipeline.hashes import fingerprint
from pipeline.paths import COMPRESSED
from pipeline.task.contract import Task
from pipeline.task.tensor_cache import read_tensors, write_tensors


def compress_cached(
    compression: Compression, task: Task, model: nn.Module, targets: Sequence[str], stats: ModelStats
) -> CompressedModel:
    """The compressed model of a task, read from the cache if the compression trains and was trained before.

    Args:
        compression: The method.
        task: The task, whose training part the method may use.
        model: The task's model, its attention rewritten.
        targets: Names of the target layers.
        stats: Statistics of their inputs, if the method needs them.
    """
    if not compression.trains or not task.trained:
        return compression.compress_model(model, targets, stats, task.train)
    names = [name for name, _ in model.named_parameters()]
    key = fingerprint([compression.model_dump(mode="json"), list(targets), names, dict(task.hashes)])
    path = COMPRESSED / f"{key}.safetensors"
    tensors = _read_sound(path)
    if tensors is not None:
        return compression.restored(model, targets, tensors)
    compressed = compression.compress_model(model, targets, stats, task.train)
    write_tensors(path, compressed.model.state_dict())
    return compressed


def _read_sound(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a cached file; ``None`` if it does not exist or is damaged, so that it is written again."""
    try:
        return read_tensors(path) if path.exists() else None
    except Exception:
        # The reader may raise almost anything for a damaged header.
        return None
