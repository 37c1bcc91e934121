"""Compressions that train the model, and the cache that keeps what they gave."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.model_stats import ModelStats
from pipeline.hashes import fingerprint
from pipeline.paths import COMPRESSED
from pipeline.task.contract import Task
from pipeline.task.tensor_cache import read_tensors, write_tensors


class TrainingCompression(Compression):
    """A method that trains the model: once, and then from a cache, so that all runs and exports use one model."""

    @abstractmethod
    def restored(self, model: nn.Module, targets: Sequence[str], tensors: Mapping[str, Tensor]) -> CompressedModel:
        """The result of an earlier ``compress_model``, from the ``state_dict`` of its model."""


def compress_cached(
    compression: Compression, task: Task, model: nn.Module, targets: Sequence[str], stats: ModelStats
) -> CompressedModel:
    """``compression.compress_model`` for a task, read from the cache if the method trains and was trained before.

    The key of the cache is made of the options of the method, the targets, the names of the model's parameters, and the
    hashes of the task's data, split and weights. A task that is not trained yet has none, and is not cached.
    """
    if not isinstance(compression, TrainingCompression) or not task.trained:
        return compression.compress_model(model, targets, stats, task.train)
    names = [name for name, _ in model.named_parameters()]
    key = fingerprint([compression.model_dump(mode="json"), list(targets), names, dict(task.hashes)])
    path = COMPRESSED / f"{key}.safetensors"
    tensors = read_tensors(path)
    if tensors is not None:
        return compression.restored(model, targets, tensors)
    compressed = compression.compress_model(model, targets, stats, task.train)
    write_tensors(path, compressed.model.state_dict())
    return compressed
