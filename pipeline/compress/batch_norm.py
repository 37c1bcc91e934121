"""Re-estimating the running statistics of batch norms after the layers before them were compressed."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import SpecError


def running_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms with running statistics.

    Raises:
        SpecError: There is none.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise SpecError('batch_norm = "reestimated", but the model has no batch norm; leave it "kept"')
    return norms


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running mean and variance of every batch norm to those of its inputs over some images, in place.

    Each batch is normalised with its own statistics, as in training; the running statistics become the mean over all
    batches. The buffers are replaced by new ones, because another model may share them.

    Args:
        model: In eval mode, and in eval mode again afterwards.
        batches: Images from the training part.

    Raises:
        SpecError: The model has no batch norm with running statistics.
    """
    norms = running_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        for name, buffer in list(norm.named_buffers(recurse=False)):
            norm.register_buffer(name, buffer.clone())
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, each with equal weight
        norm.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
