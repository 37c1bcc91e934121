"""A loop written by hand with Optuna and peft: LoRA on an int1 MLP 784-256-128-10, tensors in memory.

One trial after another, each on a fresh copy of the compressed model.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from bench.plain_loop import mlp, num_threads, set_int1

Samples: TypeAlias = tuple[Tensor, Tensor]
"""Inputs ``[n, 784]`` and labels ``[n]``."""

EPOCHS = 5
BATCH_SIZE = 256
RANKS = (2, 4, 8)
ALPHA = (1.0, 64.0)
LR = (1e-4, 1e-2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a loop over trials took and reached."""

    seconds: float
    """Of ``study.optimize``: every trial's ask, copy, training, evaluations and stored value."""
    trials_per_minute: float
    accuracies: list[float]
    """Validation accuracy of each trial's best epoch, in the order of the trials."""


def _optimizer(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if name == "adam":
        return torch.optim.Adam(trained, lr=lr)
    return torch.optim.SGD(trained, lr=lr, momentum=0.9)


def _train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, train: Samples) -> None:
    """One pass over all training samples, the last and smaller batch included."""
    inputs, labels = train
    model.train()
    for rows in torch.randperm(len(labels)).split(BATCH_SIZE):
        loss = F.cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def _accuracy(model: nn.Module, val: Samples) -> float:
    """Over all validation samples, in one batch."""
    inputs, labels = val
    model.eval()
    return float((model(inputs).argmax(1) == labels).float().mean())


def _adapted(base: nn.Module, rank: int, alpha: float) -> PeftModel:
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["fc1", "fc2", "fc3"])
    return get_peft_model(copy.deepcopy(base), config)


def run(
    state: Mapping[str, Tensor],
    train: Samples,
    val: Samples,
    trials: Sequence[dict[str, Any]],
    threads: int,
    storage: str | None,
) -> Result:
    """Trains the given trials, 5 epochs each at batch 256, and evaluates after every epoch.

    Counted: ``study.optimize`` alone. Not counted: imports, compression, creating the study and queueing the values.
    Nothing is pruned, no value of an epoch is reported, and as all values are queued no sampler is asked.

    Args:
        state: The trained model's ``state_dict``: ``fc1``, ``fc2``, ``fc3``, weight and bias.
        train: All training samples.
        val: All validation samples.
        trials: Values of each trial: ``rank`` (2, 4 or 8), ``alpha`` (1 to 64), ``optimizer`` ("adam", or "sgd" with
            momentum 0.9) and ``lr`` (1e-4 to 1e-2).
        threads: For torch's operators.
        storage: An SQLAlchemy URL for Optuna, such as ``sqlite:///studies.db``; none keeps the study in memory.
    """
    base = mlp()
    base.load_state_dict(state)
    set_int1(base)

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(trial.number)
        rank = trial.suggest_categorical("rank", RANKS)
        alpha = trial.suggest_float("alpha", *ALPHA, log=True)
        name = trial.suggest_categorical("optimizer", ("adam", "sgd"))
        lr = trial.suggest_float("lr", *LR, log=True)
        model = _adapted(base, rank, alpha)
        optimizer = _optimizer(name, model, lr)
        best = 0.0
        for _ in range(EPOCHS):
            _train_epoch(model, optimizer, train)
            best = max(best, _accuracy(model, val))
        return best

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", storage=storage)
    for values in trials:
        study.enqueue_trial(values)
    with num_threads(threads):
        start = time.perf_counter()
        study.optimize(objective, n_trials=len(trials))
        seconds = time.perf_counter() - start
    accuracies = [trial.values[0] for trial in study.trials]
    return Result(seconds=seconds, trials_per_minute=60 * len(trials) / seconds, accuracies=accuracies)
