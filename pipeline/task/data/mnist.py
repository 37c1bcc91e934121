"""MNIST (LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998)."""

from collections.abc import Callable
from typing import Any

from pipeline.config.registry import DATASETS
from pipeline.task.data.torchvision_source import TorchvisionSource


@DATASETS.register("mnist")
class Mnist(TorchvisionSource):
    """Handwritten digits: 60,000 + 10,000 grey images of 28 px, 10 classes."""

    def reader(self) -> Callable[..., Any]:
        from torchvision.datasets import MNIST

        reader: Callable[..., Any] = MNIST
        return reader

    def subfolder(self) -> str:
        return "MNIST"
