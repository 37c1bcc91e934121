"""The MLP 784-256-128-10 on MNIST, int1 and LoRA on all three layers, trained by a peft loop and by this package."""

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
from torchvision.datasets import MNIST

from bench import peft_loop, plain_loop
from bench.parts import Measured, Setup, listed
from bench.requirements import require_path
from bench.tasks import study, train_all
from pipeline.adapt.methods.lora import Lora
from pipeline.config.spec import StudySpec
from pipeline.environment import keep_freed_memory, peak_memory
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass
from pipeline.space import Ask, Values, full_space
from pipeline.store.database import open_storage
from pipeline.store.ledger import Ledger
from pipeline.store.stored_study import create_or_resume
from pipeline.task.contract import Task
from pipeline.train.loop import workers

Samples = tuple[Tensor, Tensor]
TRAINED_SHARE = 0.8
"""Share of MNIST's 60,000 training images that is trained on; the others validate."""


def require_mnist(root: Path) -> None:
    """End the script if a file of MNIST is not below ``root``."""
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            require_path(
                root / "MNIST" / "raw" / f"{part}-{kind}-ubyte",
                "MNIST",
                "name its folder by --data FOLDER; to download it: "
                f"python -c \"from torchvision.datasets import MNIST; MNIST('{root}', download=True)\"",
            )


def mnist(root: Path) -> tuple[Samples, Samples]:
    """Inputs ``[n, 784]``, normalised, and labels ``[n]`` for training and for validation."""
    data = MNIST(str(root), train=True)
    images, labels = (data.data.float().flatten(1) / 255 - 0.1307) / 0.3081, data.targets
    count = int(TRAINED_SHARE * len(labels))
    return (images[:count], labels[:count]), (images[count:], labels[count:])


def baseline(train: Samples) -> dict[str, Tensor]:
    """The dense MLP after two epochs of Adam."""
    torch.manual_seed(0)
    model, (images, labels) = plain_loop.mlp(), train
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    count = len(labels)
    for rows in (*torch.randperm(count).split(128), *torch.randperm(count).split(128)):
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
    """Train the trials by the peft loop, with 1 or 2 threads, whichever trains the first four trials faster."""
    train, val = mnist(root)
    state, values = baseline(train), queued(trials)
    rates = {n: peft_loop.run(state, train, val, values[:4], n, None).trials_per_minute for n in (1, 2)}
    threads = max(rates, key=lambda n: rates[n])
    result = peft_loop.run(state, train, val, values, threads, None)
    return {"trials_per_minute": result.trials_per_minute, "threads": threads, "best": max(result.accuracies)}


def restora_side(root: Path, trials: int) -> dict[str, Any]:
    """Compress the model and train the same trials in cohorts, none pruned, stored in SQLite; all of it is timed."""
    keep_freed_memory()
    train, val = mnist(root)
    task, spec = _task(baseline(train), train, val)
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/studies.db")
        started = time.perf_counter()
        objective = Objective(task, spec.combination[0], spec.search)
        values = [Values(init="paper", batch_size=peft_loop.BATCH_SIZE, **chosen) for chosen in queued(trials)]
        lanes = train_all(objective, values, peft_loop.EPOCHS)
        stored = create_or_resume(storage, "benchmark/mlp", {}, {}, {})
        ledger = Ledger(stored, full_space(spec.search, Lora()))
        for number, (lane, chosen) in enumerate(zip(lanes, values, strict=True)):
            accuracies = [epoch.val_accuracy for epoch in lane.curve]
            ask = Ask(chosen.cell, number, "queued", chosen)
            ledger.finish(ask, TrialState.COMPLETE, accuracies, objective.attributes(lane, chosen), lane.best)
        seconds = time.perf_counter() - started
        storage.remove_session()
        storage.engine.dispose()
    return {"trials_per_minute": 60 * trials / seconds, "best": max(lane.best for lane in lanes)}


def cohort_rate(root: Path, lanes: int) -> dict[str, float]:
    """Trial-samples per second of training with that many lanes per pass, one pass on every core; and peak memory."""
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
    return {"samples_per_second": count * len(train[1]) / (time.perf_counter() - started), "peak_memory": before}


def plain_rate(steps: int) -> float:
    """Samples per second of the plain loop, with 1 or 2 threads, whichever is faster."""
    return max(plain_loop.samples_per_second(256, threads, steps) for threads in (1, 2))


def peft(setup: Setup) -> Measured:
    """The same trials by a loop of Optuna and peft, and by this package."""
    trials = setup.sizes.queued
    loop, package = (setup.measure(side, setup.data, trials) for side in (peft_side, restora_side))
    speedup = package["trials_per_minute"] / loop["trials_per_minute"]
    counted = (
        f"trials per minute over those of an Optuna + peft loop, the same {trials} queued trials of 5 epochs on four "
        f"fifths of MNIST's training images, the others to validate; the loop with the better of 1 and 2 threads, its "
        f"`optimize` alone; this package with compression, starts, choice of lanes, and the stored study"
    )
    return Measured(
        {"peft": loop, "restora": package, "peft_speedup": speedup},
        {"peft_speedup": counted},
        [
            ("Optuna + peft by hand, MNIST MLP", f"{loop['trials_per_minute']:.1f} trials/min"),
            ("the same trials, this way", f"{package['trials_per_minute']:.1f}: {speedup:.1f} times"),
            ("their best accuracies", f"{loop['best']:.4f} and {package['best']:.4f}"),
        ],
    )


def cohorts(setup: Setup) -> Measured:
    """Training rate and memory at several lanes per pass."""
    plain = setup.measure(plain_rate, setup.sizes.steps)
    measured = {str(lanes): setup.measure(cohort_rate, setup.data, lanes) for lanes in setup.sizes.lanes}
    rates = {lanes: found["samples_per_second"] for lanes, found in measured.items()}
    memory = {lanes: found["peak_memory"] for lanes, found in measured.items()}
    speedup = {lanes: rate / plain for lanes, rate in rates.items()}
    counted = (
        "trial-samples per second at T lanes per pass, one pass on every core (one in all at T = 1), rank 8, Adam, "
        "batch 256, over training samples per second of a plain loop with the better of 1 and 2 threads"
    )
    return Measured(
        {
            "plain_samples_per_second": plain,
            "samples_per_second": rates,
            "peak_memory": memory,
            "cohort_speedup": speedup,
        },
        {"cohort_speedup": counted},
        [
            ("plain loop", f"{plain / 1e3:,.0f} thousand samples/s"),
            ("T lanes, thousand trial-samples/s", listed({lanes: rate / 1e3 for lanes, rate in rates.items()})),
            ("best over the plain loop", f"{max(speedup.values()):.1f} times"),
            ("peak memory at T lanes, MB", listed({lanes: size / 1e6 for lanes, size in memory.items()})),
        ],
    )
