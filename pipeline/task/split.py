"""The split of the images into train, validation and test: seeded, stratified, identified by a hash."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.task_spec import SplitSpec
from pipeline.hashes import hash_tensors
from pipeline.task.data.contract import Images, Items


@dataclass(frozen=True)
class Split:
    """Indices ``[n]``, int64, ascending. ``test`` is ``None`` if the data set has a test part already."""

    train: Tensor
    val: Tensor
    test: Tensor | None

    def hash(self) -> str:
        """sha256 of the indices."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return hash_tensors((name, indices) for name, indices in parts.items() if indices is not None)

    def items(self, images: Images) -> dict[str, tuple[Items, Tensor]]:
        """The items of each part, and the indices of its images among them."""
        tested = images.test if images.test is not None else images.train
        chosen = torch.arange(len(tested)) if self.test is None else self.test
        return {"train": (images.train, self.train), "val": (images.train, self.val), "test": (tested, chosen)}


def split(labels: Tensor, spec: SplitSpec, *, test: bool) -> Split:
    """Split off the test part if ``test``, then the validation part from the remaining images.

    A part has ``round(fraction * n)`` images, and its share of each class to within one image.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    rest = torch.arange(len(labels))
    tested = None
    if test:
        tested, rest = _take(rest, labels, spec.test, generator)
    val, train = _take(rest, labels, spec.val, generator)
    return Split(train=train, val=val, test=tested)


def _take(indices: Tensor, labels: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shuffle, sort by class and take at even steps, which is random and stratified; returns taken and rest."""
    shuffled = indices[torch.randperm(len(indices), generator=generator)]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    count = round(fraction * len(indices))
    # In integers, because index * fraction would round to one image too many or too few.
    steps = torch.arange(len(indices) + 1) * count // max(len(indices), 1)
    chosen = steps[1:] > steps[:-1]
    return by_class[chosen].sort().values, by_class[~chosen].sort().values
