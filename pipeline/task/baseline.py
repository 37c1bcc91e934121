"""Training of the baseline: the uncompressed model."""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config.task_spec import BaselineSpec, TorchOptimizer
from pipeline.errors import SpecError
from pipeline.guard import check_stop
from pipeline.task.parts import Part

logger = logging.getLogger(__name__)

TORCH_OPTIMIZERS: dict[TorchOptimizer, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def train_epochs(
    model: nn.Module, part: Part, spec: BaselineSpec, seed: int, device: torch.device
) -> Iterator[nn.Module]:
    """Train ``model`` in place on ``part``; yields it before the first epoch and after each.

    The loop runs in train mode: dropout is on and batch norm learns its statistics. It uses its own random generators,
    so it neither depends on the global ones nor changes them. The weights after the last epoch stay. The caller may
    read the yielded model, and must not change it.

    Args:
        model: The model, on the CPU; it is in eval mode, on the CPU, at the end.
        part: The images and labels to train on.
        spec: How it is trained.
        seed: The seed of batch order and dropout.
        device: The device to train on.

    Raises:
        SpecError: The loss becomes infinite or NaN; the epoch is named.
    """
    order = torch.Generator().manual_seed(seed)
    model.to(device).train().requires_grad_(True)
    optimizer = TORCH_OPTIMIZERS[spec.optimizer](model.parameters(), lr=spec.lr)
    # All GPUs, because torch.manual_seed seeds all of them.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield model
        for epoch in range(1, spec.epochs + 1):
            total, count = torch.zeros((), device=device), 0
            for images, labels in part.batches(spec.batch_size, torch.randperm(len(part), generator=order)):
                check_stop()
                if len(images) == 1 and count:
                    # Batch norm has no variance over a last batch of one image.
                    continue
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach() * len(images)
                count += len(images)
            mean = float(total) / count
            if not mean < float("inf"):
                raise SpecError(
                    f"the baseline's loss is {mean} in epoch {epoch}; lower task.baseline.lr = {spec.lr}, or choose "
                    f"another optimizer"
                )
            logger.info(f"baseline: epoch {epoch}/{spec.epochs}, loss {mean:.4f}")
            yield model
    model.to("cpu").eval()
