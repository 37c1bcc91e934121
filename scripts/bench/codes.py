"""What training codes costs beside training the same weights without rounding them."""

import time
from typing import Any

import torch

from bench import plain_loop
from bench.parts import Measured, Setup
from pipeline.config.study_file import parse_spec
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
BATCH_SIZE = 256


def codes_seconds(steps: int, tries: int) -> dict[str, float]:
    """Seconds of a step of one lane of the MLP 784-256-128-10 on one core, by method; epochs of all take turns."""
    torch.set_num_threads(1)
    images, labels = torch.randn(BATCH_SIZE * steps, 784), torch.arange(BATCH_SIZE * steps) % 10
    few = images[:BATCH_SIZE], labels[:BATCH_SIZE]
    task = Task(plain_loop.mlp(), (images, labels), few, few)
    lanes = {}
    for name, (compression, adapter) in METHODS.items():
        table = {
            "name": "benchmark",
            "task": {"model": {"source": "mlp", "widths": [784, 256, 128, 10]}, "data": "mnist"},
            "combination": [{"name": "codes", "compression": compression, "adapter": adapter}],
            "search": {
                "ranks": [1], "inits": ["paper"], "alpha": 1.0, "optimizer": ["adam"], "lr": 1e-3,
                "batch_size": [BATCH_SIZE], "epochs": 2 * tries + 2, "trials": 1, "sampler": {"method": "random"},
            },
        }  # fmt: skip
        spec = parse_spec(table, "benchmark")
        objective = Objective(task, spec.combination[0], spec.search)
        lanes[name] = objective, objective.lane(Values(rank=0, init="none", batch_size=BATCH_SIZE))
    seconds = dict.fromkeys(METHODS, float("inf"))
    for _ in range(tries + 1):  # the first epoch pays for memory
        for name, (objective, lane) in lanes.items():
            started = time.perf_counter()
            objective.train_epoch([lane])
            seconds[name] = min(seconds[name], (time.perf_counter() - started) / steps)
    return seconds


def trained_codes(setup: Setup) -> Measured:
    """The cost of a step that trains codes, over one that trains the same weights as they are."""
    seconds = setup.measure(codes_seconds, setup.sizes.code_steps, setup.sizes.tries)
    ratios = {name: taken / seconds["full"] for name, taken in seconds.items() if name != "full"}
    counted = (
        f"seconds of a training step of one lane, adapter codes over adapter full, MLP 784-256-128-10 on one core, "
        f"batch {BATCH_SIZE}, Adam, validation on one batch included; the best of {setup.sizes.tries + 1} epochs"
    )
    return Measured(
        {"codes_seconds": seconds, "codes_over_full": ratios},
        {"codes_over_full": counted},
        [(f"a step of codes over one of full, {name}", f"{ratio:.2f}") for name, ratio in ratios.items()],
    )
