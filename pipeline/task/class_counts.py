"""How many images each class has in each part, and what that means for training and for accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.numbers import far_from_uniform
from pipeline.task.data.contract import Images, Items
from pipeline.wording import counted, listed, percent, printable, quoted

ADD_IMAGES = "add images, remove the folders of the class, or split off smaller parts in [task.split]"
PARTS = {"train": "training", "val": "validation", "test": "test"}


def score_largest_class(labels: Tensor) -> list[int]:
    """``[correct, images]`` of a model that always answers the most frequent of the labels ``[N]``."""
    return [int(labels.bincount().max()), len(labels)]


@dataclass(frozen=True)
class ClassCounts:
    """The images of each class in each part.

    Args:
        names: The classes, by label.
        parts: The images of each class, ``[classes]``, by the part's name. Labels out of range are not counted.
    """

    names: Sequence[str]
    parts: Mapping[str, Tensor]

    @classmethod
    def of(cls, images: Images, divided: Mapping[str, tuple[Items, Tensor]]) -> "ClassCounts":
        """Count the classes of a data set that is divided into parts (``Split.items``)."""
        classes = len(images.classes)
        labels = {part: items.labels[indices] for part, (items, indices) in divided.items()}
        counts = {
            part: torch.bincount(found[(found >= 0) & (found < classes)], minlength=classes)
            for part, found in labels.items()
        }
        return cls(images.classes, counts)

    def untrained(self) -> list[str]:
        """A phrase for each class without a training image: its name, and in which parts its images are."""
        said = []
        for label in (self.parts["train"] == 0).nonzero().flatten().tolist():
            counts = {part: int(count[label]) for part, count in self.parts.items() if count[label]}
            where = [f"{counted(count, 'image')} in {PARTS[part]}" for part, count in counts.items()]
            said.append(f"'{printable(self.names[label])}' ({listed(where) if where else 'no images'})")
        return said

    def largest(self) -> str:
        """The shares of the largest class in the validation and the test part, as a phrase."""
        shares = {part: self.parts[part] / self.parts[part].sum().clamp(min=1) for part in ("val", "test")}
        said = (f"{percent(float(share.max()))} % of the {PARTS[part]} images" for part, share in shares.items())
        return f"the largest has {listed(said)}"

    def notes(self) -> Iterator[str]:
        """A phrase for each trait of the validation and the test part that changes how an accuracy is read."""
        for part in ("val", "test"):
            counts = self.parts[part]
            lacking = [self.names[label] for label in (counts == 0).nonzero().flatten().tolist()]
            if lacking:
                yield f"no {PARTS[part]} images of class {quoted(lacking)}"
            most, total = int(counts.max()), int(counts.sum())
            if far_from_uniform(most, total, len(self.names)):
                yield (
                    f"{percent(most / total)} % of the {PARTS[part]} images are of class "
                    f"'{printable(self.names[int(counts.argmax())])}': a model that always answers this class has that "
                    f"accuracy"
                )
