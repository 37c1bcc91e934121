"""Rounds all layers of ResNet-20 with its CIFAR-10 weights to few bits, without labels and without any training.

    python scripts/resnet_rounding.py [--weights FOLDER] [--data TAR]

Prints the accuracy on all 10,000 test images for each way of rounding, and beside a rate of distortion the bits that a
weight takes after entropy coding. Needs what ``resnet_codes.py`` needs; it takes a quarter of an hour on one core.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.cifar_resnet import load_resnet, read_images
from bench.requirements import require_path
from bench.resnet_rows import Row, compressed
from pipeline import paths
from pipeline.run.winners import score_adapter
from resnet_codes import SHARED

WAYS: Mapping[str, dict[str, Any]] = {
    "nearest": {},
    "`coordinate`": {"rounding": "coordinate"},
    "`coordinate`, `prefix = 512`": {"rounding": "coordinate", "prefix": 512},
}
GRIDS: Mapping[str, dict[str, Any]] = {
    "4": {"bits": 4},
    "3": {"bits": 3},
    "2": {"bits": 2},
    "4, not symmetric": {"bits": 4, "symmetric": False},
    "3, not symmetric": {"bits": 3, "symmetric": False},
    "2, not symmetric": {"bits": 2, "symmetric": False},
}
RATED: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "3 bits": ({"bits": 3}, {"bits": 3}),
    "4 bits, rates 0.05 and 0.06": ({"bits": 4, "rate": 0.05}, {"bits": 4, "rate": 0.06}),
    "2 bits, not symmetric": ({"bits": 2, "symmetric": False}, {"bits": 2, "symmetric": False}),
    "4 bits, rates 0.2 and 0.14": ({"bits": 4, "rate": 0.2}, {"bits": 4, "rate": 0.14}),
}
"""Options for nearest rounding and for ``coordinate``; the rates give about the coded size of the row above."""


def rounded(options: dict[str, Any], weights: Path, images: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The share of all test images that the rounded model has right, and its coded bits a weight."""
    row = Row("rounded", "", {"method": "intN", **options}, targets=("*",))
    objective, values = compressed(row, load_resnet(weights), images, seed=0)
    scores = [score_adapter(objective, values, {}, part) for part in ("val", "test")]
    layers = objective.size(values, {}).layers.values()
    bits, numbers = sum(layer.base.payload for layer in layers), sum(layer.dense // 32 for layer in layers)
    return sum(correct for correct, _ in scores) / sum(count for _, count in scores), bits / numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SHARED / "cifar-resnet", metavar="FOLDER")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar10-lossless.tar.xz", metavar="TAR")
    given = parser.parse_args()
    require_path(given.weights, "the weights of ResNet-20", "name their folder by --weights")
    require_path(given.data, "CIFAR-10", "name a tar of train/<class>/ and test/<class>/ by --data")
    print_tables(given.weights, read_images(given.data, paths.STORAGE / "cache" / "cifar10.safetensors"))


def print_tables(weights: Path, images: dict[str, torch.Tensor]) -> None:
    """Both tables in Markdown; each row is printed when it is done."""
    print(f"| bits | {' | '.join(WAYS)} |\n|{'---|' * (1 + len(WAYS))}")
    for grid, options in GRIDS.items():
        cells = [f"{rounded({**options, **way}, weights, images)[0]:.2%}" for way in WAYS.values()]
        print(f"| {grid} | {' | '.join(cells)} |", flush=True)
    print("\n| | nearest | `coordinate` |\n|---|---|---|")
    for name, pair in RATED.items():
        ways = zip(pair, (WAYS["nearest"], WAYS["`coordinate`"]), strict=True)
        found = [rounded({**options, **way}, weights, images) for options, way in ways]
        cells = [f"{accuracy:.2%} at {bits:.2f}" for accuracy, bits in found]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
