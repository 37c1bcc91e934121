"""Compressions that train are done once: what came of them is kept, and the same for every run and export."""

from collections.abc import Mapping, Sequence

from torch import nn

from pipeline.compress.contract import CompressedModel, Compression, LayerStats
from pipeline.paths import COMPRESSED
from pipeline.study_file import fingerprint
from pipeline.task.contract import Task
from pipeline.task.kept import keep, read_kept


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
    try:
        return compression.restored(model, targets, read_kept(path))
    except Exception:
        # It is not there, or damaged, which makes the reader raise nearly anything: the cure is the same.
        compressed = compression.compress_model(model, targets, stats, task.train)
        keep(path, compressed.model.state_dict())
        return compressed
