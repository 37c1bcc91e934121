"""CIFAR-10 (Krizhevsky: Learning multiple layers of features from tiny images, 2009)."""

from collections.abc import Callable
from typing import Any

from pipeline.config.registry import DATASETS
from pipeline.task.data.torchvision_source import TorchvisionSource


@DATASETS.register("cifar10")
class Cifar10(TorchvisionSource):
    """Small photographs: 50,000 + 10,000 colour images of 32 px, 10 classes."""

    def reader(self) -> Callable[..., Any]:
        from torchvision.datasets import CIFAR10

        reader: Callable[..., Any] = CIFAR10
        return reader

    def subfolder(self) -> str:
        return "cifar-10-batches-py"
