"""The MLP 784-256-128-10 on MNIST, int1 and LoRA on all three layers: Restora's side of the comparison."""

import math
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from optuna.trial import TrialState
from torch import Tensor
from torch.nn import functional as F

from bench import peft_loop, plain_loop
from bench.tasks import study, train_all
from pipeline.adapt.methods.lora import Lora
from pipeline.config.spec import StudySpec
from pipeline.environment import keep_freed_memory
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass
from pipeline.space import Ask, Values, full_space
from pipeline.store.database import open_storage
from pipeline.store.ledger import Ledger
from pipeline.store.stored_study import create_or_resume
from pipeline.task import Task

TRAIN, VAL = 48_000, 12_000
Samples = tuple[Tensor, Tensor]


def mnist(root: Path) -> tuple[Samples, Samples]:
    """48,000 and 12,000 of the training images, flat and normalised."""
    from torchvision.datasets import MNIST

    data = MNIST(str(root), train=True)
    images = (data.data.float().flatten(1) / 255 - 0.1307) / 0.3081
    return (images[:TRAIN], data.targets[:TRAIN]), (images[TRAIN:], data.targets[TRAIN:])


def baseline(train: Samples) -> dict[str, Tensor]:
    """The dense MLP after two epochs of Adam."""
    torch.manual_seed(0)
    model, (images, labels) = plain_loop.mlp(), train
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for rows in (*torch.randperm(TRAIN).split(128), *torch.randperm(TRAIN).split(128)):
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    return model.state_dict()


def queued(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The trials that both sides train."""
    rng = random.Random(seed)
    return [
        {
            "rank": rng.choice(peft_loop.RANKS),
            "alpha": math.exp(rng.uniform(*map(math.log, peft_loop.ALPHA))),
            "optimizer": rng.choice(("adam", "sgd")),
            "lr": math.exp(rng.uniform(*map(math.log, peft_loop.LR))),
        }
        for _ in range(count)
    ]


def _task(state: Mapping[str, Tensor], train: Samples, val: Samples) -> tuple[Task, StudySpec]:
    model = plain_loop.mlp()
    model.load_state_dict(state)
    spec = study(
        ["int1"],
        ranks=list(peft_loop.RANKS),
        inits=["paper"],
        alpha={"low": peft_loop.ALPHA[0], "high": peft_loop.ALPHA[1], "log": True},
        lr={"low": peft_loop.LR[0], "high": peft_loop.LR[1], "log": True},
        batch_size=[peft_loop.BATCH_SIZE],
        epochs=peft_loop.EPOCHS,
    )
    return Task(model, train, val, val), spec


def peft_side(root: Path, trials: int) -> dict[str, Any]:
    """The loop by hand with the better number of threads, which four trials tell."""
    train, val = mnist(root)
    state, values = baseline(train), queued(trials)
    rates = {n: peft_loop.run(state, train, val, values[:4], n, None).trials_per_minute for n in (1, 2)}
    threads = max(rates, key=lambda n: rates[n])
    result = peft_loop.run(state, train, val, values, threads, None)
    return {"trials_per_minute": result.trials_per_minute, "threads": threads, "best": max(result.accuracies)}


def restora_side(root: Path, trials: int) -> dict[str, Any]:
    """The same trials: compressed, started, trained in cohorts, none pruned, stored in SQLite; all of it counted."""
    keep_freed_memory()
    train, val = mnist(root)
    task, spec = _task(baseline(train), train, val)
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/studies.db")
        started = time.perf_counter()
        objective = Objective(task, spec.combination[0], spec.search)
        values = [Values(init="paper", batch_size=peft_loop.BATCH_SIZE, **each) for each in queued(trials)]
        lanes = train_all(objective, values, peft_loop.EPOCHS)
        stored = create_or_resume(storage, "benchmark/mlp", {}, {}, {})
        ledger = Ledger(stored, full_space(spec.search, Lora()))
        for number, (lane, each) in enumerate(zip(lanes, values, strict=True)):
            accuracies = [epoch.val_accuracy for epoch in lane.curve]
            ask = Ask(each.cell, number, "queued", each)
            ledger.finish(ask, TrialState.COMPLETE, accuracies, objective.attributes(lane, each), lane.best)
        seconds = time.perf_counter() - started
    return {"trials_per_minute": 60 * trials / seconds, "best": max(lane.best for lane in lanes)}


def cohort_rate(root: Path, lanes: int) -> dict[str, float]:
    """Trial-samples a second of training, with that many lanes in a pass, and one pass on each core; peak memory."""
    from pipeline.environment import peak_memory
    from pipeline.train.parallel import workers

    keep_freed_memory()
    train, _ = mnist(root)
    task, spec = _task(plain_loop.mlp().state_dict(), train, (train[0][:256], train[1][:256]))
    objective = Objective(task, spec.combination[0], spec.search)
    count = lanes * (workers("cpu") if lanes > 1 else 1)
    values = [Values(rank=8, init="paper", batch_size=256, alpha=16.0, optimizer="adam", lr=1e-3)] * count
    size = Pass(0, lanes=lanes)
    train_all(objective, values, 1, size)
    before = peak_memory("cpu")
    started = time.perf_counter()
    train_all(objective, values, 1, size)
    return {"samples_per_second": count * TRAIN / (time.perf_counter() - started), "peak_memory": before}


def plain_rate() -> float:
    """Samples a second of the plain loop, with the better number of threads."""
    return max(plain_loop.samples_per_second(256, threads, 600) for threads in (1, 2))
