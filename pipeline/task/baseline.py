"""The uncompressed reference: trained once, and kept under the hash of everything that it depends on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import SpecError
from pipeline.paths import BASELINES, write_whole
from pipeline.spec import BaselineSpec, fingerprint
from pipeline.task.hashes import hash_tensors
from pipeline.task.parts import Part

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
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            noted = (file.metadata() or {}).get("sha256")
        found = _hash(key, state)
        if found != noted:
            raise ValueError(f"its sha256 is {found}, and {noted} was noted")
        model.load_state_dict(state)
    except Exception as error:
        # A damaged header makes the reader raise nearly anything; whatever it is, the cure is the same.
        say(f"baseline {path} is damaged ({error}); it is trained again")
        return False
    return True


def keep_baseline(model: nn.Module, key: str) -> None:
    """Write ``model`` so that ``load_baseline`` finds it."""
    # Cloned, because safetensors refuses entries that share memory.
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_whole(kept_at(key), lambda path: save_file(state, path, metadata={"sha256": _hash(key, state)}))


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


def _hash(key: str, state: dict[str, Tensor]) -> str:
    """sha256 over the weights and what they are the baseline of, so that another task's file is noticed."""
    return fingerprint([key, hash_tensors((name, state[name]) for name in sorted(state))])
