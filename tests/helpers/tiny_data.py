"""Tiny data sets in the formats that the sources read."""

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 60), "red": (210, 30, 20)}


def write_images(folder: Path, n: int, seed: int = 0, side: int = 8, classes: dict | None = None) -> Path:
    """``n`` noisy images of one colour a class, ``folder/<class>/<n>.png``."""
    noise = np.random.default_rng(seed)
    for name, colour in (classes or COLOURS).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in range(n):
            pixels = np.clip(np.array(colour) + noise.integers(-20, 20, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{place:03}.png")
    return folder


def write_mnist(root: Path, n: int = 40) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for part, count in (("train", n), ("t10k", n // 2)):
        images = noise.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
    return root


def write_cifar(root: Path, classes: int) -> Path:
    """One image a class in each file; torchvision's own checksums have to be switched off for it."""
    noise = np.random.default_rng(0)
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    meta = ("batches.meta", "label_names") if classes == 10 else ("meta", "fine_label_names")
    folder.mkdir(parents=True)
    for name in names:
        pixels = noise.integers(0, 256, (2 * classes, 3072), dtype=np.uint8)
        key = "labels" if classes == 10 else "fine_labels"
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: list(range(classes)) * 2}))
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [f"class {k}" for k in range(classes)]}))
    return root
