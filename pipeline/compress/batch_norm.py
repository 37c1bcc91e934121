"""Batch-norm statistics, taken again where the layers before them were compressed."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import SpecError


def running_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep running statistics.

    Raises:
        SpecError: There is none.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise SpecError('batch_norm = "reestimated", but the model has no batch norm; leave it "kept"')
    return norms


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean and variance of its inputs over some training images, in place.

    Each batch is normalised by its own statistics on its way, as in training; their plain means over the batches
    become the running ones. Buffers are replaced, not written to: they may be another model's too.

    Args:
        model: In eval mode; so it is afterwards.
        batches: Images from the training part.

    Raises:
        SpecError: It has no batch norm with running statistics.
    """
    norms = running_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        for name, buffer in list(norm.named_buffers(recurse=False)):
            norm.register_buffer(name, buffer.clone())
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
