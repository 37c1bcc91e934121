"""EfficientNet-Lite0 with ImageNet weights: compressions of its head and last convolutions, recovered label-free."""

import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config.spec import StudySpec
from pipeline.config.study_file import parse_spec
from pipeline.numbers import wilson
from pipeline.results.combination_result import CellResult, CombinationResult, Score

HEAD = ("classifier",)
CONVOLUTIONS = ("blocks.6.0.conv_pw", "blocks.6.0.conv_pwl", "conv_head")
"""All 1 x 1; the depthwise convolution between the first two is 1 % of them, and stays dense."""
RANK = 8


LORA = {"method": "lora", "factors": "int4", "bias": True}
CODES = {"method": "codes", "statistics": "kept"}
"""Batch norms keep the statistics of ImageNet: those of enlarged CIFAR images are others, also in the dense model."""
BOTH = {**CODES, "adapter": {"method": "lora", "factors": "int4"}}


@dataclass(frozen=True)
class Variant:
    """One compression at one size with one adapter, as a combination of a study.

    Args:
        size: What sets its size, in words.
        compression: Its table in a study file.
        rank: Of the adapter; 0 for one without a rank.
        adapter: Its name or table in a study file.
    """

    size: str
    compression: dict[str, Any]
    rank: int = RANK
    adapter: Mapping[str, Any] = field(default_factory=lambda: LORA)

    @property
    def trained(self) -> str:
        """What is trained, in words."""
        added = self.adapter.get("adapter")
        return f"{self.adapter['method']} and {added['method']}" if added else str(self.adapter["method"])

    @property
    def name(self) -> str:
        """The combination's name."""
        return f"{self.compression['method']}-{self.size}-{self.trained}".replace(" ", "-").replace(":", "of")

    def combination(self, targets: tuple[str, ...]) -> dict[str, Any]:
        """Its table in a study file."""
        ranked = [{"match": target, "rank": self.rank} for target in targets] if self.rank else list(targets)
        return {"name": self.name, "compression": self.compression, "adapter": dict(self.adapter), "targets": ranked}


def trained_each_way(size: str, compression: dict[str, Any], rank: int) -> tuple[Variant, ...]:
    """LoRA alone, codes alone, and both."""
    return (
        Variant(size, compression, rank),
        Variant(size, compression, 0, CODES),
        Variant(size, compression, rank, BOTH),
    )


def coded(**options: Any) -> tuple[Variant, ...]:
    """Codes that are chosen for the inputs of their layers, with further options of the compression."""
    seeing = {"rounding": "coordinate", "bias": "corrected", **options}
    return (
        *trained_each_way("1 bit", {"method": "int1", **seeing}, 16),
        *trained_each_way("2 bits", {"method": "intN", "bits": 2, "symmetric": False, **seeing}, RANK),
        Variant("4 bits", {"method": "intN", "bits": 4, **seeing}),
        *(
            Variant(block, {"method": "sparse", "block": block, "values": {"bits": 4}, **seeing}, 0, CODES)
            for block in ("2:4", "4x4")
        ),
    )


FACTORS = tuple(
    Variant(f"budget {budget:g}", {**method, "metric": "activation", "ridge": 1.0, "budget": budget})
    for method in (
        {"method": "svd"},
        {"method": "svdlora", "bits": 8},
        {"method": "tou", "frozen": {"method": "intN", "bits": 8}},
    )
    for budget in (0.5, 0.25)
)
PRUNED = tuple(Variant(f"keep {keep:g}", {"method": "prune_magnitude", "keep": keep}, 32) for keep in (0.75, 0.5))


@dataclass(frozen=True)
class Place:
    """A part of the model, and what a trial spends there.

    Args:
        name: In words; ``channels`` are those of the convolutions, taken out whole.
        targets: Its layers.
        inits: Of the adapters.
        lr: The highest learning rate that is tried; the lowest is a quarter of it. A single trial has this one.
        epochs: Of a trial; the frozen layers before the targets are computed once, so a head's are cheap.
        trials: Of each init; halving ends most of them early.
        variants: What is tried there.
    """

    name: str
    targets: tuple[str, ...]
    inits: tuple[str, ...]
    lr: float
    epochs: int
    trials: int
    variants: tuple[Variant, ...]

    @property
    def part(self) -> str:
        """What its study is called by: the place, and whether codes are trained there."""
        return f"{self.name}-codes" if self.variants[0].adapter["method"] == "codes" else self.name

    def quick(self) -> "Place":
        """One epoch of one trial."""
        return replace(self, epochs=1, trials=1)


def by_codes(variants: Sequence[Variant], *, trained: bool) -> tuple[Variant, ...]:
    """Those that train codes, or those that do not: codes are lost at the rates that are best for adapters."""
    return tuple(variant for variant in variants if (variant.adapter["method"] == "codes") == trained)


ROUNDED, BEHIND = coded(), coded(prefix=256)
OF_HEAD: dict[str, Any] = {"inits": ("qera", "svd"), "epochs": 10, "trials": 3}
OF_CONVOLUTIONS: dict[str, Any] = {"inits": ("qera",), "trials": 1}
PLACES = (
    Place("head", HEAD, lr=2e-3, variants=by_codes(ROUNDED, trained=False) + FACTORS, **OF_HEAD),
    Place("head", HEAD, lr=2e-4, variants=by_codes(ROUNDED, trained=True), **OF_HEAD),
    Place(
        "convolutions",
        CONVOLUTIONS,
        lr=1e-3,
        epochs=6,
        variants=by_codes(BEHIND, trained=False) + FACTORS,
        **OF_CONVOLUTIONS,
    ),
    Place("convolutions", CONVOLUTIONS, lr=3e-4, epochs=12, variants=by_codes(BEHIND, trained=True), **OF_CONVOLUTIONS),
    Place("channels", CONVOLUTIONS, lr=4e-3, variants=PRUNED, inits=("paper",), epochs=4, trials=3),
)


def unpack(data: Path, folder: Path, train: int, test: int) -> None:
    """Bring the first images of each class to ``folder``, ``train`` and ``test`` of them over all ten classes.

    Args:
        data: A tar archive with ``train/<class>/NNNN.jpg`` and ``test/<class>/NNNN.jpg``.
        folder: Where they will lie; nothing is done where it is there.
        train: Images of the training part.
        test: Images of the test part.
    """
    if folder.is_dir():
        return
    wanted = {f"{part}/{own:04}" for part, count in (("train", train), ("test", test)) for own in range(count // 10)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as new, tarfile.open(data, "r|*") as archive:
        for member in archive:
            part, _, name = member.name.partition("/")
            if f"{part}/{Path(name).stem}" in wanted:
                archive.extract(member, f"{new}/whole", filter="data")
        Path(new, "whole").rename(folder)


def study(place: Place, weights: Path, images: Path, name: str) -> StudySpec:
    """The study of one place: the model's own answers are its labels, and its logits what trials learn from."""
    model = {
        "source": "timm",
        "architecture": "tf_efficientnet_lite0",
        "checkpoint": str(weights),
        "rename": "order",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    }
    task = {
        "metric": "agreement",
        "model": model,
        "data": {"source": "image-folder", "root": str(images)},
        "split": {"val": 0.2},
    }
    table = {
        "name": name,
        "task": task,
        "storage": {"small": "float16", "coding": "rans"},
        "combination": [variant.combination(place.targets) for variant in place.variants],
        "search": {
            "ranks": [RANK],
            "inits": list(place.inits),
            "alpha": {"low": 8, "high": 32, "log": True},
            "optimizer": ["adam"],
            "lr": {"low": place.lr / 4, "high": place.lr, "log": True} if place.trials > 1 else place.lr,
            "batch_size": [32],
            "epochs": place.epochs,
            "schedule": "cosine",
            "trials": place.trials,
            "sampler": {"method": "random"},
            "loss": {"method": "distillation", "temperature": 1.0},
        },
    }
    return parse_spec(table, name)


def row(place: Place, variant: Variant, result: CombinationResult) -> dict[str, Any]:
    """What one variant came to: the cell that validation prefers, on the test part before and after."""
    (cell,) = result.best_of_ranks().values()
    return {
        "where": place.name,
        "method": variant.compression["method"],
        "size": variant.size,
        "trained": variant.trained,
        "adapter_rank": variant.rank,
        "init": cell.cell.init,
        "dense_bytes": result.facts["dense_bytes"],
        "compressed_bytes": result.facts["compressed_bytes"],
        **_sizes(cell),
        "before": _stated(result.compressed["test"]),
        "after": _stated(cell.test),
    }


def _sizes(cell: CellResult) -> dict[str, Any]:
    known = cell.best.user_attrs if cell.best else {}
    return {name: known.get(name) for name in ("bytes", "ratio", "layer_bytes", "layer_ratio", "trainable")}


def _stated(score: Score | None) -> dict[str, Any]:
    if score is None:
        raise ValueError("the winner has not been tested; run the study again")
    low, high = wilson(score.correct, score.images)
    return {"agreement": score.accuracy, "low": low, "high": high, "images": score.images}
