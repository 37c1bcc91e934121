"""CIFAR-10 and CIFAR-100 (Krizhevsky: Learning multiple layers of features from tiny images, 2009)."""

from pipeline.config.registry import DATASETS
from pipeline.task.data.torchvision_source import TorchvisionSource


@DATASETS.register("cifar10")
class Cifar10(TorchvisionSource):
    """Small photographs: 50,000 + 10,000 colour images of 32 px, 10 classes."""

    reader = "CIFAR10"
    subfolder = "cifar-10-batches-py"


@DATASETS.register("cifar100")
class Cifar100(TorchvisionSource):
    """Small photographs: 50,000 + 10,000 colour images of 32 px, 100 classes."""

    reader = "CIFAR100"
    subfolder = "cifar-100-python"
