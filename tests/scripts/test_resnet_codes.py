import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import resnet_rounding
from bench.cifar_resnet import ResNet
from bench.resnet_rows import ROWS, Row, trained
from resnet_codes import line
from resnet_rounding import GRIDS, RATED, print_tables

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


def test_each_way_of_rounding_is_judged_with_its_coded_bits_and_codebooks_with_bytes_and_errors(monkeypatch, capsys):
    monkeypatch.setattr(resnet_rounding, "load_resnet", lambda _: ResNet(1).eval())
    monkeypatch.setattr(resnet_rounding, "GRIDS", dict([*GRIDS.items()][:1]))
    monkeypatch.setattr(resnet_rounding, "RATED", dict([*RATED.items()][1:2]))
    monkeypatch.setattr(resnet_rounding, "CENTROIDS", (4,))
    print_tables(Path(), few_images())
    _, _, grid, _, _, _, rated, *_, codebook = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\| 4( \| \d+\.\d\d%){3} \|", grid)
    assert re.fullmatch(r"\| 4 bits, rates 0.05 and 0.06( \| \d+\.\d\d% at [23]\.\d\d){2} \|", rated)
    own, shared = re.fullmatch(r"\| 4 \| ([\d,]+) \| 0\.\d{3} \| ([\d,]+) \| 0\.\d{3} \|", codebook).groups()
    assert int(shared.replace(",", "")) < int(own.replace(",", ""))
