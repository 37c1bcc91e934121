"""The split of the images into train, validation and test: seeded, stratified, and known by its hash."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.task_spec import SplitSpec
from pipeline.hashes import hash_tensors


@dataclass(frozen=True)
class Split:
    """Indices ``[n]``, int64, ascending. ``test`` is None where the data set has a test part of its own."""

    train: Tensor
    val: Tensor
    test: Tensor | None

    def hash(self) -> str:
        """sha256 of the indices."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return hash_tensors((name, indices) for name, indices in parts.items() if indices is not None)


def split(labels: Tensor, spec: SplitSpec, *, test: bool) -> Split:
    """Split ``labels`` ``[N]``, test first where ``test`` asks for it, then validation off what is left.

    ``round(fraction * n)`` images are taken, and of each class its share to within one.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    rest = torch.arange(len(labels))
    taken = None
    if test:
        taken, rest = _take(rest, labels, spec.test, generator)
    val, train = _take(rest, labels, spec.val, generator)
    return Split(train=train, val=val, test=taken)


def _take(indices: Tensor, labels: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shuffle, order by class, and take at even steps: that is both random and stratified."""
    shuffled = indices[torch.randperm(len(indices), generator=generator)]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    count = round(fraction * len(indices))
    # Whole numbers, because rounding in place * fraction would take one too many or too few.
    steps = torch.arange(len(indices) + 1) * count // max(len(indices), 1)
    chosen = steps[1:] > steps[:-1]
    return by_class[chosen].sort().values, by_class[~chosen].sort().values
