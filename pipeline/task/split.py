"""The split of the images into train, validation and test: seeded, stratified, identified by a hash."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.task_spec import SplitSpec
from pipeline.hashes import hash_tensors
from pipeline.task.data.contract import Images, Items


@dataclass(frozen=True)
class Split:
    """Indices of training images, ``[n]``, int64, ascending; ``None`` for a part that the data set has itself."""

    train: Tensor
    val: Tensor | None
    test: Tensor | None

    def hash(self) -> str:
        """sha256 of the indices."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return hash_tensors((name, indices) for name, indices in parts.items() if indices is not None)

    def items(self, images: Images) -> dict[str, tuple[Items, Tensor]]:
        """The items of each part, and the indices of its images among them."""
        taken = {"train": self.train, "val": self.val, "test": self.test}
        given = images.parts()
        return {
            name: (given[name], torch.arange(len(given[name]))) if indices is None else (images.train, indices)
            for name, indices in taken.items()
        }


def divide(images: Images, spec: SplitSpec) -> Split:
    """Split off the parts that a data set does not have itself."""
    return split(images.train.labels, spec, val=images.val is None, test=images.test is None)


def split(labels: Tensor, spec: SplitSpec, *, val: bool = True, test: bool) -> Split:
    """Split off the test part if ``test``, then the validation part, if ``val``, from the remaining images.

    A part has ``round(fraction * n)`` images, and its share of each class to within one image.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    rest = torch.arange(len(labels))
    tested = chosen = None
    if test:
        tested, rest = _take(rest, labels, spec.test, generator)
    if val:
        chosen, rest = _take(rest, labels, spec.val, generator)
    return Split(train=rest, val=chosen, test=tested)


def _take(indices: Tensor, labels: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shuffle, sort by class and take at even steps, which is random and stratified; returns taken and rest."""
    shuffled = indices[torch.randperm(len(indices), generator=generator)]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    count = round(fraction * len(indices))
    # In integers, because index * fraction would round to one image too many or too few.
    steps = torch.arange(len(indices) + 1) * count // max(len(indices), 1)
    chosen = steps[1:] > steps[:-1]
    return by_class[chosen].sort().values, by_class[~chosen].sort().values
