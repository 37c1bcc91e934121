"""Batches for models in train mode, in which batch norm needs more than one image."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import SpecError
from pipeline.task.parts import Part
from pipeline.wording import counted


def training_batches(part: Part, batch_size: int, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``(images [n, ...], labels [n])`` in the order of the indices ``order``.

    A last batch of one image joins the one before it, because batch norm in train mode has no variance over one image.
    Batches of size 1 stay as they are.
    """
    joined = batch_size + 1 if _leaves_one(len(order), batch_size) else 0
    yield from part.batches(batch_size, order[: len(order) - joined])
    if joined:
        yield from part.batches(joined, order[len(order) - joined :])


def count_batches(count: int, batch_size: int) -> int:
    """The number of batches that ``training_batches`` makes of ``count`` images."""
    return -(-count // batch_size) - _leaves_one(count, batch_size)


def _leaves_one(count: int, batch_size: int) -> bool:
    return count > batch_size > 1 and count % batch_size == 1


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a model with running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def refuse_single_images(model: nn.Module, count: int, batch_size: int, option: str) -> None:
    """Refuse to train a model with batch norm on batches of one image; ``option`` is the name of the batch size.

    Raises:
        SpecError: The batch size, or the ``count`` of training images, is 1, and the model has batch norm.
    """
    if min(count, batch_size) == 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise SpecError(
            f"{option} = {batch_size} over {counted(count, 'training image')} gives batches of one image, over which "
            f"the model's batch norm has no variance; give 2 or more of both"
        )
