"""CIFAR-100 (Krizhevsky: Learning multiple layers of features from tiny images, 2009)."""

from typing import ClassVar

from pipeline.config.registry import DATASETS
from pipeline.task.data.torchvision_source import TorchvisionSource


@DATASETS.register("cifar100")
class Cifar100(TorchvisionSource):
    """Small photographs: 50,000 + 10,000 colour images of 32 px, 100 classes."""

    reader: ClassVar[str] = "CIFAR100"
    subfolder: ClassVar[str] = "cifar-100-python"
