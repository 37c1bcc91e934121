"""How many images each class has in each part, and what that means for training and for accuracy."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pipeline.numbers import far_from_uniform
from pipeline.task.data.contract import Images, Items
from pipeline.wording import counted, listed, percent, printable

ADD_IMAGES = "add images, remove the folders of the class, or split off smaller parts"
PARTS = {"train": "training", "val": "validation", "test": "test"}

Divided = Mapping[str, tuple[Items, Tensor]]
"""The items of each part, and the indices of its images among them."""


def score_largest_class(labels: Tensor) -> list[int]:
    """``[correct, images]`` of a model that always answers the most frequent of the labels ``[N]``."""
    return [int(labels.bincount().max()), len(labels)]


def classes_without_training_images(images: Images, divided: Divided) -> list[str]:
    """A phrase for each class that has no training image: the name, and in which parts its images are."""
    counts = {name: _counts(images, items.labels[indices]) for name, (items, indices) in divided.items()}
    said = []
    for label in (counts["train"] == 0).nonzero().flatten().tolist():
        elsewhere = [
            f"{counted(int(count[label]), 'image')} in {PARTS[name]}" for name, count in counts.items() if count[label]
        ]
        said.append(f"'{printable(images.classes[label])}' ({listed(elsewhere) if elsewhere else 'no images'})")
    return said


def largest_shares(images: Images, divided: Divided) -> str:
    """The shares of the largest class in the validation and the test part, as a phrase."""
    said = (
        f"{percent(count / max(total, 1))} % of the {PARTS[name]} images"
        for name, _, count, total in _largest(images, divided)
    )
    return f"the largest has {listed(said)}"


def uneven_classes(images: Images, divided: Divided) -> Iterator[str]:
    """A phrase for the validation and test part, if its largest class has far more images than the others."""
    for name, largest, count, total in _largest(images, divided):
        if far_from_uniform(count, total, len(images.classes)):
            yield (
                f"{percent(count / total)} % of the {PARTS[name]} images are of class '{printable(largest)}': a model "
                f"that always answers this class has that accuracy"
            )


def _largest(images: Images, divided: Divided) -> Iterator[tuple[str, str, int, int]]:
    """The validation and the test part, each with the name and the images of its largest class, and all its images."""
    for name in ("val", "test"):
        items, indices = divided[name]
        counts = _counts(images, items.labels[indices])
        yield name, images.classes[int(counts.argmax())], int(counts.max()), len(indices)


def _counts(images: Images, labels: Tensor) -> Tensor:
    """The images of each class, ``[classes]``; labels out of range are not counted."""
    classes = len(images.classes)
    return torch.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
