"""What training codes costs beside training the same weights without rounding them."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench import plain_loop
from bench.parts import Measured, Setup
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
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MLP 784-256-128-10, batch 128": (plain_loop.mlp, (784,), 128),
    "MLP 784-256-128-10, batch 256": (plain_loop.mlp, (784,), 256),
}
"""Model, shape of an image, and batch size."""


def codes_seconds(case: str, steps: int, tries: int) -> dict[str, float]:
    """Seconds of a step of one lane on one core in one of ``CASES``, by method; epochs of all take turns."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model, shape, batch_size = CASES[case]
    images, labels = torch.randn(batch_size * steps, *shape), torch.arange(batch_size * steps) % 10
    few = images[:batch_size], labels[:batch_size]
    task = Task(model(), (images, labels), few, few)
    lanes = {}
    for name, (compression, adapter) in METHODS.items():
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
    seconds = dict.fromkeys(METHODS, float("inf"))
    for _ in range(tries + 1):  # the first epoch pays for memory
        for name, (objective, lane) in lanes.items():
            started = time.perf_counter()
            objective.train_epoch([lane])
            seconds[name] = min(seconds[name], (time.perf_counter() - started) / steps)
    return seconds


def trained_codes(setup: Setup) -> Measured:
    """The cost of a step that trains codes, over one that trains the same weights as they are."""
    seconds = {case: setup.measure(codes_seconds, case, setup.sizes.code_steps, setup.sizes.tries) for case in CASES}
    ratios = {
        f"{name}, {case}": taken / of_case["full"]
        for case, of_case in seconds.items()
        for name, taken in of_case.items()
        if name != "full"
    }
    counted = (
        f"seconds of a training step of one lane, adapter codes over adapter full on one core, Adam, validation on one "
        f"batch included; the best of {setup.sizes.tries + 1} epochs"
    )
    return Measured(
        {"codes_seconds": seconds, "codes_over_full": ratios},
        {"codes_over_full": counted},
        [(f"a step of codes over one of full, {name}", f"{ratio:.2f}") for name, ratio in ratios.items()],
    )
