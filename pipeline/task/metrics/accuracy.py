"""Accuracy of a classifier."""

import torch
from torch import nn

from pipeline.config.registry import METRICS
from pipeline.task.contract import Metric
from pipeline.task.parts import Part


@METRICS.register("accuracy")
class Accuracy(Metric):
    """The share of images whose class the model ranks first."""


def count_correct(model: nn.Module, part: Part, device: str | torch.device = "cpu", batch_size: int = 256) -> int:
    """Count the images of ``part`` whose class the model ranks first.

    Args:
        model: A model on ``device``, in eval mode.
        part: The images and their labels.
        device: The device that the batches are moved to.
        batch_size: Images per forward pass.
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for images, labels in part.batches(batch_size):
            correct += (model(images.to(device)).argmax(1) == labels.to(device)).sum()
    return int(correct)
