"""The uncompressed reference: trained once, and kept under the hash of everything that it depends on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config.task_spec import BaselineSpec
from pipeline.errors import SpecError
from pipeline.paths import BASELINES
from pipeline.task.parts import Part
from pipeline.task.tensor_cache import read_tensors, write_tensors

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def kept_at(key: str) -> Path:
    """The file of a baseline, by the hash of everything that it depends on."""
    return BASELINES / f"{key}.safetensors"


def load_baseline(model: nn.Module, key: str, say: Callable[[str], None]) -> bool:
    """Load a kept baseline into ``model``; False where there is none, or its file is damaged, which is said."""
    path = kept_at(key)
    if not path.exists():
        return False
    try:
        model.load_state_dict(read_tensors(path))
    except Exception as error:  # whatever is wrong with it, the cure is the same
        say(f"baseline {path} is damaged ({error}); it is trained again")
        return False
    return True


def keep_baseline(model: nn.Module, key: str) -> None:
    """Write ``model`` so that ``load_baseline`` finds it."""
    write_tensors(kept_at(key), model.state_dict())


def train_baseline(
    model: nn.Module,
    part: Part,
    spec: BaselineSpec,
    seed: int,
    device: torch.device,
    say: Callable[[str], None],
    check: Callable[[], None],
    watch: Callable[[nn.Module], None],
) -> None:
    """Train ``model`` in place on ``part``; the weights after the last epoch stay.

    An ordinary loop in train mode, with dropout on and batch norm learning its statistics. It draws from generators
    of its own, so that it neither depends on the global ones nor moves them. ``check`` is called before every batch,
    and what it raises ends the training; ``watch`` before the first epoch and after each, and must leave the model as
    it is.

    Raises:
        SpecError: The loss becomes infinite or NaN; with its epoch.
    """
    order = torch.Generator().manual_seed(seed)
    model.to(device).train().requires_grad_(True)
    optimizer = OPTIMIZERS[spec.optimizer](model.parameters(), lr=spec.lr)
    # All GPUs, because torch.manual_seed seeds all of them.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        watch(model)
        for epoch in range(1, spec.epochs + 1):
            loss = _train_epoch(model, part, spec.batch_size, order, optimizer, device, check)
            if not loss < float("inf"):
                raise SpecError(
                    f"the baseline's loss is {loss} in epoch {epoch}; lower task.baseline.lr = {spec.lr}, or choose "
                    f"another optimizer"
                )
            say(f"baseline: epoch {epoch}/{spec.epochs}, loss {loss:.4f}")
            watch(model)
    model.to("cpu").eval()


def _train_epoch(
    model: nn.Module,
    part: Part,
    batch_size: int,
    order: torch.Generator,
    optimizer: Any,
    device: torch.device,
    check: Callable[[], None],
) -> float:
    """One pass over ``part`` in a new order; the mean loss."""
    total, seen = torch.zeros((), device=device), 0
    for images, labels in part.batches(batch_size, torch.randperm(len(part), generator=order)):
        check()
        if len(images) == 1 and seen:
            # Batch norm has no variance over a last batch of one.
            continue
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(images)
        seen += len(images)
    return float(total) / seen
