"""Whether an architecture can take images of the size that a study file asks for, and which sizes near it work."""

import itertools
import time

import torch
from PIL import Image
from torch import nn

from pipeline.errors import RestoraError, SpecError
from pipeline.task.inspection import refuse_unsound
from pipeline.task.models.contract import ModelSource, Preprocessing

STRIDES = (1, 4, 7, 8, 14, 16, 28, 32, 56, 64, 112, 224)
"""Sizes near another are its next multiples of these: of patches, of windows, and of the strides of whole networks."""
SHAPES_ALONE = "meta" if torch.__version__ >= "2.8" else "cpu"
"""The device on which sizes are tried: ``meta`` has no values, but before 2.8 lets kernels be larger than images."""
PATIENCE = 10.0
"""Seconds that the search for sizes that work may take."""


def input_of(source: ModelSource, model: nn.Module, preprocessing: Preprocessing, classes: int) -> tuple[int, ...]:
    """The shape ``(channels, height, width)`` of the model's input, once the model has taken one such image.

    Raises:
        SpecError: The model cannot take it; the message names the size, the reason and sizes that work.
        IntegrityError: Its weights are given, and its logits are not finite.
    """
    try:
        image = preprocessing(Image.new("RGB", (64, 64), (124, 116, 104)))
        logits = _take(model, image[None])
    except RestoraError:
        raise
    except Exception as error:  # each architecture raises errors of its own for images that it cannot take
        raise misfit(source, classes, error) from error
    if source.pretrained:
        refuse_unsound(model, logits, "an even image")
    return tuple(image.shape)


def misfit(source: ModelSource, classes: int, error: Exception) -> SpecError:
    """The error of an architecture that cannot be built for its image size, or cannot take images of it."""
    name, reason = getattr(source, "architecture", source.name), f"{error}".strip().partition("\n")[0]
    reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    size = getattr(source, "image_size", None)
    if size is None:
        return SpecError(f"task.model '{name}' cannot be built, or cannot take its images: {reason}")
    near = " and ".join(map(str, sizes_near(source, classes, size)))
    to_do = f"sizes near it that work: {near}" if near else "leave image_size out to use that of the weights"
    return SpecError(
        f"task.model.image_size = {size}: '{name}' cannot take images of {size} x {size} pixels ({reason}); {to_do}"
    )


def sizes_near(source: ModelSource, classes: int, size: int) -> list[int]:
    """The nearest sizes below and above ``size`` that work, among its next multiples of ``STRIDES``; tried out."""
    below = sorted({(size - 1) // stride * stride for stride in STRIDES} - {0}, reverse=True)
    above = sorted({(size // stride + 1) * stride for stride in STRIDES})
    until, found = time.monotonic() + PATIENCE, list[int]()
    for sizes in (below, above):
        tried = (near for near in sizes if time.monotonic() < until and _works(source, classes, near))
        found += itertools.islice(tried, 1)
    return found


def _works(source: ModelSource, classes: int, size: int) -> bool:
    """Whether the architecture, built for this size, takes such an image: by its shape alone."""
    sized = source.model_copy(update={"image_size": size})
    try:
        _take(_built(sized, classes), torch.zeros(1, 3, size, size, device=SHAPES_ALONE))
    except Exception:
        return False
    return True


def _built(source: ModelSource, classes: int) -> nn.Module:
    try:
        with torch.device(SHAPES_ALONE):
            return source.build(classes)
    except NotImplementedError:  # such as RegNet, which computes its widths with tensors
        return source.build(classes).to(SHAPES_ALONE)


@torch.no_grad()
def _take(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The logits of images ``[n, ...]`` in eval mode."""
    was_training = model.training
    try:
        logits = model.eval()(images)
    finally:
        model.train(was_training)
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"it gives a {type(logits).__name__}; it must return logits [n, classes] alone")
    if len(logits) != len(images):
        raise ValueError(f"it gives {len(logits)} rows of logits for {len(images)} image")
    return logits
