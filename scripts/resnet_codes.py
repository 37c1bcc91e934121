"""Compresses all layers of ResNet-20 or ResNet-56 with their CIFAR-10 weights, trains the codes, and tests them.

    python scripts/resnet_codes.py [ROW ...] [--seeds N] [--epochs N] [--json FILE] [--weights FOLDER] [--data TAR]

Needs the weights (``resnet20-*.th``, ``resnet56-*.th``) and CIFAR-10 as a tar of ``train/<class>/`` and
``test/<class>/``. The weights were trained on all training images, so one half of the test images validates, and the
other is the test part, which is read once for each row and seed. Bytes are those of the file with its header. An epoch
of ResNet-20 takes about three minutes on one core, and one of ResNet-56 seven.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from bench.cifar_resnet import load_resnet, read_images
from bench.requirements import require_path
from bench.resnet_rows import ROWS, Figures, Row, trained
from pipeline import paths
from pipeline.environment import keep_freed_memory
from pipeline.numbers import wilson

SHARED = Path(__file__).parents[2] / "shared" / "data"


def measure(rows: Sequence[Row], seeds: int, weights: Path, images: dict[str, torch.Tensor]) -> list[Figures]:
    """Each row under each seed; its line is printed when it is done."""
    print("| model | compression | trained | bytes | of the dense | before | after (95 %) |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for row in rows:
        for seed in range(seeds if row.epochs else 1):
            found.append(trained(row, load_resnet(weights, row.depth), images, seed))
            print(line(row, found[-1]), flush=True)
    return found


def line(row: Row, figures: Figures) -> str:
    """A row of the table in Markdown."""
    low, high = wilson(figures.correct, figures.images)
    return (
        f"| ResNet-{row.depth} | {row.compression} | {row.training} | {figures.bytes:,} "
        f"| {figures.bytes / figures.dense_bytes:.1%} | {figures.before / figures.images:.2%} "
        f"| {figures.correct / figures.images:.2%} ({low:.2%} to {high:.2%}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all unless given")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings of each row (default: 1)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of every training, instead of the row's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--weights", type=Path, default=SHARED / "cifar-resnet", metavar="FOLDER")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar10-lossless.tar.xz", metavar="TAR")
    given = parser.parse_args()
    unknown = [name for name in given.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row '{unknown[0]}'; choose of {', '.join(ROWS)}")
    require_path(given.weights, "the weights of ResNet-20 and ResNet-56", "name their folder by --weights")
    require_path(given.data, "CIFAR-10", "name a tar of train/<class>/ and test/<class>/ by --data")
    keep_freed_memory()
    rows = [ROWS[name] for name in given.rows or ROWS]
    if given.epochs is not None:
        rows = [replace(row, epochs=min(row.epochs, given.epochs)) for row in rows]
    images = read_images(given.data, paths.STORAGE / "cache" / "cifar10.safetensors")
    found = measure(rows, given.seeds, given.weights, images)
    if given.json:
        given.json.write_text(json.dumps([asdict(figures) for figures in found], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
