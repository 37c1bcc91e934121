from dataclasses import replace

import pytest
import torch

from bench.cifar_resnet import ResNet
from bench.resnet_rows import ROWS, Row, trained
from resnet_codes import line

SHORT = {name: replace(row, epochs=min(row.epochs, 1), train=16, depth=20) for name, row in ROWS.items()}


def few_images() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = {part: torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8) for part, count in SIZES.items()}
    return images | {f"{part}_labels": torch.arange(count) % 10 for part, count in SIZES.items()}


SIZES = {"train": 20, "test": 24}


@pytest.mark.parametrize("row", SHORT.values(), ids=SHORT)
def test_every_row_is_compressed_trained_and_tested_on_one_half_of_the_test_images(row: Row):
    torch.manual_seed(0)
    figures = trained(row, ResNet(1).eval(), few_images(), seed=0)
    assert figures.images == 12
    assert figures.bytes < 0.45 * figures.dense_bytes
    assert len(figures.val_accuracies) == row.epochs
    assert line(row, figures).startswith(f"| ResNet-20 | {row.compression} | {row.training} | {figures.bytes:,} |")
