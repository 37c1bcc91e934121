"""The contract of augmentations, how several are applied to a batch, and how images are moved by whole pixels.

Legend: ``n`` images of a batch, ``C`` channels. Images are normalised, ``(x - mean) / std`` with pixels ``x`` in 0..1.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config.registry import Method
from pipeline.errors import SpecError


@dataclass(frozen=True)
class Scaling:
    """How pixels in 0..1 were normalised: ``(x - mean) / std``, both ``[C, 1, 1]``."""

    mean: Tensor
    std: Tensor

    def black(self, images: Tensor) -> Tensor:
        """The value of black pixels in images, ``[C, 1, 1]``."""
        return (-self.mean / self.std).to(images)

    def pixels(self, images: Tensor) -> Tensor:
        """The pixels in 0..1 of normalised images."""
        return images * self.std.to(images) + self.mean.to(images)

    def normalised(self, pixels: Tensor) -> Tensor:
        """The images of pixels in 0..1."""
        return (pixels - self.mean.to(pixels)) / self.std.to(pixels)


class Augmentation(Method):
    """A random change of training images that keeps their labels; validation and test images are never changed."""

    needs_scaling: ClassVar[bool] = True
    """Whether it depends on which values stand for black and white."""

    @abstractmethod
    def augmented(self, images: Tensor, scaling: Scaling, generator: torch.Generator) -> Tensor:
        """Changed images ``[n, C, H, W]``, of the same shape and type, on their device; the given ones stay.

        Each image is changed in a way of its own. Everything that is drawn comes from ``generator``, which is on the
        CPU, so that a seed gives the same images on every device.
        """


@dataclass(frozen=True)
class Augmenter:
    """Augmentations in their order, for images of one task."""

    augmentations: Sequence[Augmentation]
    scaling: Scaling

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """The augmented images of a batch ``[n, C, H, W]``; they follow from the images and ``seed`` alone."""
        generator = torch.Generator().manual_seed(seed)
        for augmentation in self.augmentations:
            images = augmentation.augmented(images, self.scaling, generator)
        return images


def make_augmenter(
    augmentations: Sequence[Augmentation], preprocessing: Mapping[str, Any] | None, shape: Sequence[int]
) -> Augmenter:
    """The augmenter for images ``[C, H, W]``, whose ``preprocessing`` has the facts ``mean`` and ``std``.

    Raises:
        SpecError: The inputs are no images, their normalisation is not known and an augmentation needs it, or an
            augmentation cannot take images of this shape.
    """
    names, shown = [augmentation.name for augmentation in augmentations], " x ".join(map(str, shape))
    if len(shape) != 3:
        raise SpecError(
            f"augmentation ({', '.join(names)}) takes images [channels, height, width], and the inputs of this task "
            f"are {list(shape)}; leave it out"
        )
    unscaled = Scaling(torch.zeros(shape[0], 1, 1), torch.ones(shape[0], 1, 1))
    needing = [augmentation.name for augmentation in augmentations if augmentation.needs_scaling]
    augmenter = Augmenter(augmentations, _scaling(preprocessing, shape[0], needing) if needing else unscaled)
    black = torch.zeros(2, *shape) + augmenter.scaling.black(torch.zeros(()))
    for augmentation in augmentations:
        try:
            changed = augmentation.augmented(black, augmenter.scaling, torch.Generator().manual_seed(0))
        except Exception as error:  # torchvision and plug-ins raise errors of their own
            raise SpecError(f"augmentation '{augmentation.name}' cannot take images of {shown}: {error}") from error
        if changed.shape != black.shape:
            raise SpecError(
                f"augmentation '{augmentation.name}' makes {list(changed.shape[1:])} of images {list(shape)}; it has "
                f"to keep their shape"
            )
    return augmenter


def _scaling(preprocessing: Mapping[str, Any] | None, channels: int, needing: Sequence[str]) -> Scaling:
    facts = preprocessing if isinstance(preprocessing, Mapping) else {}
    try:
        mean, std = (
            torch.tensor(facts[name], dtype=torch.float32).flatten().expand(channels).view(channels, 1, 1)
            for name in ("mean", "std")
        )
        sound = bool(mean.isfinite().all() and std.isfinite().all() and (std > 0).all())
    except (KeyError, TypeError, ValueError, RuntimeError):  # missing, no numbers, or of another count
        sound = False
    if not sound:
        raise SpecError(
            f"augmentation ({', '.join(needing)}) needs to know which value is black, and the task says of its "
            f"{channels} channels mean = {facts.get('mean')!r} and std = {facts.get('std')!r}; give Task(..., "
            f'description={{"preprocessing": {{"mean": [...], "std": [...]}}}}) with one number, or one per channel, '
            f"those of std above 0, or leave augmentation out"
        )
    return Scaling(mean, std)


def moved(images: Tensor, most: int, generator: torch.Generator, black: Tensor | None) -> Tensor:
    """Each image ``[n, C, H, W]`` moved by up to ``most`` pixels along each axis, by amounts drawn uniformly.

    What comes into view is ``black`` ``[C, 1, 1]``, or the image mirrored at its edge if that is None.
    """
    n, channels, height, width = images.shape
    y, x = torch.randint(2 * most + 1, (2, n), generator=generator)
    if black is None:
        padded = F.pad(images, [most] * 4, "reflect").contiguous()
    else:
        padded = black.expand(n, channels, height + 2 * most, width + 2 * most).clone()
        padded[:, :, most : most + height, most : most + width] = images
    # One row of a moved image is one run of memory, so rows are gathered, in a third of the time of pixels.
    across, plane = padded.shape[3], padded[0, 0].numel()
    runs = padded.view(-1).as_strided((padded.numel() - width + 1, width), (1, 1))
    corners = torch.arange(n) * (channels * plane) + y * across + x
    starts = corners[:, None, None] + torch.arange(channels)[:, None] * plane + torch.arange(height) * across
    return runs.index_select(0, starts.flatten().to(images.device)).view_as(images)
