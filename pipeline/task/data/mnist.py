"""MNIST (LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998)."""

from pipeline.config.registry import DATASETS
from pipeline.task.data.torchvision_source import TorchvisionSource


@DATASETS.register("mnist")
class Mnist(TorchvisionSource):
    """Handwritten digits: 60,000 + 10,000 grey images of 28 px, 10 classes."""

    reader = "MNIST"
    subfolder = "MNIST"
