"""What training codes costs beside training the same weights without rounding them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from bench import plain_loop
from bench.cifar_resnet import ResNet
from bench.parts import Measured, Setup
from bench.sizes import Sizes
from pipeline.config.study_file import parse_spec
from pipeline.environment import keep_freed_memory
from pipeline.objective.objective import Objective
from pipeline.space import Values
from pipeline.task.contract import Task

METHODS: dict[str, tuple[Any, str]] = {
    "full": ("none", "full"),
    "int1": ("int1", "codes"),
    "intN, 2 bits": ({"method": "intN", "bits": 2}, "codes"),
    "sparse, 8 %, 6 levels": ({"method": "sparse", "keep": 0.08, "values": {"levels": 6}}, "codes"),
    "codebook, 16 numbers": ({"method": "codebook", "size": 16}, "codes"),
}


@dataclass(frozen=True)
class Case:
    """A model whose codes are trained, all layers of it, on random images."""

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of an image
    batch_size: int
    steps: int  # of an epoch
    methods: Sequence[str] = tuple(METHODS)


def cases(sizes: Sizes) -> dict[str, Case]:
    """What is timed, by name."""
    found = {
        f"MLP 784-256-128-10, batch {batch_size}": Case(plain_loop.mlp, (784,), batch_size, sizes.code_steps)
        for batch_size in sizes.code_batches
    }
    batch_size, steps = sizes.resnet_code_batch, sizes.resnet_code_steps
    some = ("full", "int1", "intN, 2 bits")
    found[f"ResNet-20, batch {batch_size}"] = Case(partial(ResNet, 3), (3, 32, 32), batch_size, steps, some)
    return found


def codes_seconds(case: Case, tries: int) -> dict[str, float]:
    """CPU seconds of a step of one lane on one core, by method; epochs of all take turns."""
    torch.set_num_threads(1)
    keep_freed_memory()
    batch_size = case.batch_size
    images, labels = torch.randn(batch_size * case.steps, *case.shape), torch.arange(batch_size * case.steps) % 10
    few = images[:batch_size], labels[:batch_size]
    task = Task(case.model(), (images, labels), few, few)
    lanes = {}
    for name in case.methods:
        compression, adapter = METHODS[name]
        table = {
            "name": "benchmark",
            "task": {"model": {"source": "mlp", "widths": [784, 256, 128, 10]}, "data": "mnist"},
            "combination": [{"name": "codes", "compression": compression, "adapter": adapter}],
            "search": {
                "ranks": [1], "inits": ["paper"], "alpha": 1.0, "optimizer": ["adam"], "lr": 1e-3,
                "batch_size": [batch_size], "epochs": 2 * tries + 2, "trials": 1, "sampler": {"method": "random"},
            },
        }  # fmt: skip
        spec = parse_spec(table, "benchmark")
        objective = Objective(task, spec.combination[0], spec.search)
        lanes[name] = objective, objective.lane(Values(rank=0, init="none", batch_size=batch_size))
    seconds = dict.fromkeys(case.methods, float("inf"))
    for _ in range(tries + 1):  # the first epoch pays for memory
        for name, (objective, lane) in lanes.items():
            started = time.process_time()
            objective.train_epoch([lane])
            seconds[name] = min(seconds[name], (time.process_time() - started) / case.steps)
    return seconds


def trained_codes(setup: Setup) -> Measured:
    """The cost of a step that trains codes, over one that trains the same weights as they are."""
    seconds = {name: setup.measure(codes_seconds, case, setup.sizes.tries) for name, case in cases(setup.sizes).items()}
    ratios = {
        f"{name}, {case}": taken / of_case["full"]
        for case, of_case in seconds.items()
        for name, taken in of_case.items()
        if name != "full"
    }
    counted = (
        f"CPU seconds of a training step of one lane, adapter codes over adapter full on one core, Adam, validation on "
        f"one batch included; the best of {setup.sizes.tries + 1} epochs"
    )
    return Measured(
        {"codes_seconds": seconds, "codes_over_full": ratios},
        {"codes_over_full": counted},
        [(f"a step of codes over one of full, {name}", f"{ratio:.2f}") for name, ratio in ratios.items()],
    )
