"""Accuracy and its confidence interval."""

import math

import torch
from torch import nn

from pipeline.task.parts import Part

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


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


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy ``p = correct / n`` (Wilson 1927).

    ``(p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)``, with ``z`` the 97.5 % quantile of the normal.

    Raises:
        ValueError: ``n`` is not positive, or ``correct`` is not in ``0 .. n``.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n}; give n of 1 or more, and correct from 0 to n")
    p = correct / n
    centre = p + Z**2 / (2 * n)
    half_width = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)
