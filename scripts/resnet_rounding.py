"""Rounds all layers of ResNet-20 with its CIFAR-10 weights to few bits, without labels and without any training.

    python scripts/resnet_rounding.py [--weights FOLDER] [--data TAR]

Prints the accuracy on all 10,000 test images for each way of rounding; beside rates the bits that a weight takes after
entropy coding; and bytes and errors of codebooks, one for each layer or one for all. Needs what ``resnet_codes.py``
needs, and takes 50 minutes on one core.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.cifar_resnet import load_resnet, read_images
from bench.requirements import require_path
from bench.resnet_rows import Row, compressed
from pipeline import paths
from pipeline.compress.layers import weight_matrix
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
CENTROIDS = (32, 64, 128, 256)
"""Sizes of codebooks of 3 x 3 kernels, in the third table."""


class Rounded(NamedTuple):
    """What rounding came to: ``bits`` of a weight and ``bytes`` of all tensors are coded, ``error`` is relative."""

    accuracy: float
    bits: float
    bytes: int
    error: float


def rounded(table: dict[str, Any], weights: Path, images: dict[str, torch.Tensor]) -> Rounded:
    """Compress all layers, and judge all test images; ``error`` is ``||W - Q||^2 / ||W||^2`` of all layers together."""
    row = Row("rounded", "", table, targets=("*",))
    objective, values = compressed(row, load_resnet(weights), images, seed=0)
    scores = [score_adapter(objective, values, {}, part) for part in ("val", "test")]
    size, model = objective.size(values, {}), objective.combination.compressed
    layers = size.layers.values()
    bits = sum(layer.base.payload for layer in layers) / sum(layer.dense // 32 for layer in layers)
    pairs = [(weight_matrix(model.reference.get_submodule(n)), weight.dense()) for n, weight in model.weights.items()]
    lost, whole = sum(float((W - Q).square().sum()) for W, Q in pairs), sum(float(W.square().sum()) for W, _ in pairs)
    correct, count = (sum(numbers) for numbers in zip(*scores, strict=True))
    return Rounded(correct / count, bits, size.bytes, lost / whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SHARED / "cifar-resnet", metavar="FOLDER")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar10-lossless.tar.xz", metavar="TAR")
    given = parser.parse_args()
    require_path(given.weights, "the weights of ResNet-20", "name their folder by --weights")
    require_path(given.data, "CIFAR-10", "name a tar of train/<class>/ and test/<class>/ by --data")
    print_tables(given.weights, read_images(given.data, paths.STORAGE / "cache" / "cifar10.safetensors"))


def print_tables(weights: Path, images: dict[str, torch.Tensor]) -> None:
    """All tables in Markdown; each row is printed when it is done."""

    def found(*options: Mapping[str, Any], method: str = "intN") -> Rounded:
        table: dict[str, Any] = {"method": method}
        for part in options:
            table |= part
        return rounded(table, weights, images)

    print(f"| bits | {' | '.join(WAYS)} |\n|{'---|' * (1 + len(WAYS))}")
    for grid, options in GRIDS.items():
        print(_row(grid, *(f"{found(options, way).accuracy:.2%}" for way in WAYS.values())), flush=True)
    print("\n| | nearest | `coordinate` |\n|---|---|---|")
    for name, (nearest, coordinate) in RATED.items():
        pair = found(nearest), found(coordinate, WAYS["`coordinate`"])
        print(_row(name, *(f"{one.accuracy:.2%} at {one.bits:.2f}" for one in pair)), flush=True)
    print("\n| centroids | bytes, one per layer | error | bytes, shared | error |\n|---|---|---|---|---|")
    for size in CENTROIDS:
        vectors = {"size": size, "vector": 9}
        own, shared = (found(vectors, {"shared": shared}, method="codebook") for shared in (False, True))
        print(_row(str(size), f"{own.bytes:,}", f"{own.error:.3f}", f"{shared.bytes:,}", f"{shared.error:.3f}"))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
