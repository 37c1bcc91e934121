import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_data import write_cifar, write_images, write_mnist


@pytest.fixture
def write_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict]:
    """The table of a registered data set, its files written below ``RESTORA_DATA``."""
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", _load_meta)
    monkeypatch.setenv("RESTORA_DATA", str(tmp_path / "data"))

    def write(source: str) -> dict:
        root = tmp_path / "data" / source
        if source == "image-folder":
            write_images(root / "train", 10)
            write_images(root / "test", 4, seed=1)
        elif source == "mnist":
            write_mnist(root)
        elif source.startswith("cifar"):
            write_cifar(root, int(source.removeprefix("cifar")))
        return {"source": source}

    return write


def _load_meta(self: object) -> None:
    meta = Path(self.root) / self.base_folder / self.meta["filename"]  # type: ignore[attr-defined]
    self.classes = pickle.loads(meta.read_bytes())[self.meta["key"]]  # type: ignore[attr-defined]
