"""Compressions of all layers of ResNet-20 and ResNet-56, how their codes are trained, and what comes out."""

import sys
from dataclasses import dataclass, field
from typing import Any

from safetensors.torch import save
from torch import Tensor

from bench.cifar_resnet import ResNet, cifar_task
from pipeline.config.spec import StudySpec
from pipeline.config.study_file import parse_spec
from pipeline.export.pack import pack_model
from pipeline.objective.objective import Objective
from pipeline.run.winners import score_adapter
from pipeline.space import Values

EIGHT_BITS: list[dict[str, Any]] = [
    {"match": name, "compression": {"method": "intN", "bits": 8}} for name in ("conv1", "linear")
]
"""The first and the last layer, which have 1.8 % of the weights of ResNet-20."""
SEEING: dict[str, Any] = {"rounding": "coordinate", "prefix": 512}
"""Codes are chosen for the inputs that the compressed layers before them give for 512 training images."""

ONE_BIT: dict[str, Any] = {"method": "int1", **SEEING}
LORA: dict[str, Any] = {"method": "lora", "factors": "int4"}
TERNARY: dict[str, Any] = {"method": "sparse", "keep": 0.6, "values": {"levels": 2}, **SEEING}
"""Zero, and two trained values for each layer."""


@dataclass(frozen=True)
class Row:
    """One compression of all layers of a network, and one training of it.

    Args:
        name: Its name.
        compression: In words.
        table: Of the study file.
        depth: 20 or 56.
        adapter: The table of a study file that says what is trained.
        epochs: 0 trains nothing.
        lr: The peak of the learning rate, which falls as a cosine.
        train: How many training images there are; None for all 50,000.
        labels: The weight of the labels beside that of the uncompressed model's logits.
        rank: Of the adapter; 0 for one without.
        targets: Of the study file.
    """

    name: str
    compression: str
    table: dict[str, Any]
    depth: int = 20
    adapter: dict[str, Any] = field(default_factory=lambda: {"method": "codes"})
    epochs: int = 0
    lr: float = 2e-3
    train: int | None = None
    labels: float = 0.3
    rank: int = 0
    targets: tuple[str | dict[str, Any], ...] = ("*", *EIGHT_BITS)

    @property
    def training(self) -> str:
        """How it is trained, in words."""
        if not self.epochs:
            return "no"
        images = "all images" if self.train is None else f"{self.train:,} images"
        added = self.adapter.get("adapter", {}).get("method")
        what = f"{self.adapter['method']} and {added}" if added else self.adapter["method"]
        ranked = f" (r = {self.rank})" if self.rank else ""
        return f"{what}{ranked}, {self.epochs} epochs of {images}, {'with' if self.labels else 'without'} labels"

    def study(self) -> StudySpec:
        """Its study; the task is built by the caller."""
        table = {
            "name": self.name,
            "task": {"model": {"source": "mlp", "widths": [4, 2]}, "data": "mnist"},
            "storage": {"small": "float16", "coding": "rans"},
            "compute": {"precision": "bfloat16", "channels_last": True, "cache": "off"},
            "combination": [
                {
                    "name": self.name,
                    "compression": self.table,
                    "adapter": self.adapter if self.epochs else "none",
                    "targets": list(self.targets),
                }
            ],
            "search": {
                "ranks": [max(self.rank, 1)],
                "inits": ["svd"],
                "alpha": 1.0,
                "optimizer": ["adam"],
                "lr": self.lr,
                "batch_size": [128],
                "epochs": max(self.epochs, 1),
                "warmup": min(0.5, self.epochs),
                "schedule": "cosine",
                "loss": {"method": "distillation", "temperature": 2.0, "labels": self.labels},
                "augmentation": [{"method": "flip"}, {"method": "crop"}],
                "trials": 1,
                "sampler": {"method": "random"},
            },
        }
        return parse_spec(table, self.name)


ROWS = {
    row.name: row
    for row in (
        Row("4-bits", "4 bits", {"method": "intN", "bits": 4, **SEEING}),
        Row(
            "4-bits-label-free",
            "4 bits",
            {"method": "intN", "bits": 4, **SEEING},
            epochs=20,
            lr=1e-4,
            train=1000,
            labels=0,
        ),
        Row("2-bits", "2 bits", {"method": "intN", "bits": 2, "symmetric": False, **SEEING}, epochs=18),
        Row("1-bit", "1 bit", ONE_BIT, epochs=26),
        Row("1-bit-lora", "1 bit", ONE_BIT, adapter=LORA, epochs=12, lr=1e-3, rank=8),
        Row("1-bit-codes-and-lora", "1 bit", ONE_BIT, adapter={"method": "codes", "adapter": LORA}, epochs=12, rank=8),
        Row("ternary-56", "ternary", TERNARY, depth=56, epochs=15),
    )
}


@dataclass(frozen=True)
class Figures:
    """What came out of a row under one seed; ``before`` and ``correct`` count test images."""

    row: str
    seed: int
    dense_bytes: int
    bytes: int
    images: int
    before: int
    correct: int
    val_accuracies: tuple[float, ...]


def compressed(row: Row, model: ResNet, images: dict[str, Tensor], seed: int) -> tuple[Objective, Values]:
    """The objective of a row, whose model is compressed when it is first used, and the values of its only trial."""
    spec = row.study()
    task = cifar_task(model, images, row.train)
    objective = Objective(task, spec.combination[0], spec.search, spec.compute, seed=seed)
    init = "svd" if row.rank else "none"
    return objective, Values(rank=row.rank, init=init, alpha=1.0, optimizer="adam", lr=row.lr, batch_size=128)


def trained(row: Row, model: ResNet, images: dict[str, Tensor], seed: int) -> Figures:
    """Compress the model, train it as the row says, and test the epoch that is best on validation."""
    objective, values = compressed(row, model, images, seed)
    lane = objective.lane(values)
    before, count = score_adapter(objective, values, lane.parameters, "test")
    for _ in objective.epochs(lane) if row.epochs else ():
        done = lane.curve[-1]
        print(
            f"{row.name}, seed {seed}, epoch {len(lane.curve)} of {row.epochs} after {lane.seconds:.0f} s: "
            f"loss {done.train_loss:.3f}, validation {done.val_accuracy:.2%}",
            file=sys.stderr,
            flush=True,
        )
    if lane.failure is not None:
        raise RuntimeError(f"{row.name}: {lane.failure}")
    parameters = lane.best_parameters or lane.parameters
    correct, _ = score_adapter(objective, values, parameters, "test")
    packed = pack_model(objective.bases.of(values.cell).compressed, objective.combination.adapter, parameters)
    return Figures(
        row.name,
        seed,
        objective.compressed_size.dense_bytes,
        len(save(packed)),
        count,
        before,
        correct,
        tuple(epoch.val_accuracy for epoch in lane.curve),
    )
