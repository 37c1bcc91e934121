"""The gate for data from Python: what a user gives becomes a part of float32 images and int64 labels, or is refused."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from pipeline.environment import plain_modes
from pipeline.errors import IntegrityError, RestoraError
from pipeline.task.conversion import as_image, as_label, as_labels, described
from pipeline.task.parts import READ_BATCH, DatasetPart, Part, TensorPart

READ_TWICE = 16
"""Items all over a data set that are read twice and compared; random flips leave them equal once in 65,536 times."""


@runtime_checkable
class MapDataset(Protocol):
    """A map-style data set as torch defines it; its items are ``(image, label)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


PartSource = Part | MapDataset | tuple[ArrayLike, ArrayLike]
"""What can be made a part: a part, a map-style data set of ``(image, label)``, or ``(images [N, ...], labels [N])``."""


@plain_modes()
def as_part(source: PartSource, name: str) -> Part:
    """Make a part of a pair ``(images [N, ...], labels [N])`` or a map-style data set; a part is returned as it is.

    Images are tensors, arrays or lists of any floating-point type, on any device; they become float32 on the CPU.
    Labels are whole numbers of any type. Items are read in the thread that asks for them.

    Args:
        source: The pair, data set or part.
        name: The part's name in messages.

    Raises:
        IntegrityError: ``source`` is none of these, an image or a label cannot be taken, their numbers differ, or a
            data set gives other items when it is read again.
    """
    if hasattr(source, "batches"):
        return cast(Part, source)  # not isinstance, which would compute the labels
    labels = None
    if _is_pair(source):
        images, labels = source[0], as_labels(source[1], name)
        images = images.to_numpy() if hasattr(images, "to_numpy") else images  # a data frame's index is of columns
        source = _Pair(_map_style(images, name), labels)
        if len(source.images) != len(labels):
            raise IntegrityError(
                f"the {name} part has {len(source.images)} images and {len(labels)} labels; give one label per image"
            )
        if isinstance(images, Tensor):
            return TensorPart(as_image(images, f"the images of the {name} part are"), labels)
    source = _map_style(source, name)
    items = GivenItems(source, name, len(source))
    items.refuse_random()
    return DatasetPart(items, labels, threads=0, name=name)


def refuse_other_classes(parts: Mapping[str, Part]) -> None:
    """Refuse data sets that name their classes and give one label to different ones, as folders of other classes do.

    The names are those of torchvision's data sets, also inside torch's ``Subset``. A data set that changes its labels
    by a ``target_transform`` is not compared.

    Raises:
        IntegrityError: A label is of one class in the training part and of another in a later one.
    """
    named = {name: getattr(part, "class_names", ()) for name, part in parts.items()}
    for (first, classes), (name, others) in itertools.combinations(named.items(), 2):
        for label, (one, other) in enumerate(zip(classes, others, strict=False)):
            if one != other:
                raise IntegrityError(
                    f"label {label} is class {one!r} in the {first} part and {other!r} in the {name} part; give data "
                    f"sets with the same classes in the same order"
                )


class PartField:
    """A dataclass field that is set with what ``as_part`` takes, and read as a ``Part``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Part:
        if instance is None:
            raise AttributeError("a part has no default")
        part: Part = getattr(instance, f"_{self._name}")
        return part

    def __set__(self, instance: object, source: PartSource) -> None:
        object.__setattr__(instance, f"_{self._name}", as_part(source, self._name))


@dataclass(frozen=True)
class _Pair:
    """Images and their labels as a data set."""

    images: MapDataset
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[object, Tensor]:
        return self.images[index], self.labels[index]


@dataclass(frozen=True)
class GivenItems:
    """A user's data set, whose items are checked and converted: float32 images on the CPU, and whole numbers."""

    dataset: MapDataset
    name: str  # of the part, for messages
    count: int
    thread: int = field(default_factory=threading.get_ident)  # the one that gave the data set

    def __len__(self) -> int:
        return self.count

    def __deepcopy__(self, _: object) -> "GivenItems":
        return self  # data sets are only read, may be large, and may hold what cannot be copied

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        try:
            item = self.dataset[index]
        except (RestoraError, MemoryError):
            raise
        except Exception as error:
            to_do = "mend the data set, or leave the item out"
            if self.thread != threading.get_ident():
                to_do = (
                    "trials that run in parallel read it in threads of their own: open connections and files in "
                    "__getitem__, once per thread, or run them with n_jobs = 1"
                )
            raise IntegrityError(
                f"item {index} of the {self.name} part ({len(self)} items) cannot be read: {type(error).__name__}: "
                f"{error}; {to_do}"
            ) from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise IntegrityError(
                f"item {index} of the {self.name} part is {described(item)}; give a data set whose items are "
                f"(image, label)"
            )
        image, label = item
        # A copy, because some data sets fill one buffer again for every item.
        return as_image(image, f"image {index} of the {self.name} part is").clone(), as_label(label, index, self.name)

    @property
    def class_names(self) -> Sequence[object]:
        """The classes by label, where the data set names them as those of torchvision do; else empty."""
        dataset: object = self.dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        names: object = getattr(dataset, "classes", None)
        changed = getattr(dataset, "target_transform", None) is not None
        return names if isinstance(names, list | tuple) and not changed else ()

    def refuse_random(self) -> None:
        """Refuse a data set whose items differ when they are read again, such as one that augments at random."""
        for index in range(0, len(self), -(-len(self) // READ_TWICE) or 1):
            (image, label), (again, label_again) = self[index], self[index]
            if image.shape != again.shape or not torch.allclose(image, again, 0, 0, equal_nan=True):
                raise IntegrityError(
                    f"image {index} of the {self.name} part is another one when it is read again; give a data set "
                    f"without random augmentation, so that all trials meet the same images"
                )
            if label != label_again:
                raise IntegrityError(
                    f"label {label} of image {index} of the {self.name} part is {label_again} when it is read again; "
                    f"give a data set that does not change"
                )


def sound_images(part: Part, name: str, shape: torch.Size) -> Iterator[Tensor]:
    """All images of a part in batches ``[n, ...]``.

    Raises:
        IntegrityError: An image has another shape than the training images, or holds NaN or infinite values.
    """
    start = 0
    for images, _ in part.batches(READ_BATCH):
        if images.shape[1:] != shape:
            raise IntegrityError(
                f"the images of the {name} part are {list(images.shape[1:])}, and those of the train part "
                f"{list(shape)}; resize all images to one shape"
            )
        wrong = (~images.isfinite().reshape(len(images), -1).all(1)).nonzero()
        if len(wrong):
            raise IntegrityError(
                f"image {start + int(wrong[0])} of the {name} part holds NaN or infinite values; correct it, or leave "
                f"it out"
            )
        start += len(images)
        yield images


def _is_pair(source: object) -> bool:
    """Whether it is ``(images, labels)``, and not a list of two items ``(image, label)``."""
    return isinstance(source, tuple | list) and len(source) == 2 and not all(map(_is_item, source))


def _is_item(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    label = value[1]
    return isinstance(label, str) or not hasattr(label, "__len__") or getattr(label, "ndim", None) == 0


def _map_style(source: object, name: str) -> MapDataset:
    """``source`` itself, if it has a length and items by number."""
    wrong = isinstance(source, str | bytes | Mapping | Set | DataLoader | IterableDataset)
    if not wrong and isinstance(source, MapDataset):
        try:
            len(source)
        except Exception as error:
            raise IntegrityError(
                f"the {name} part is {described(source)}, whose length cannot be read: {error}; mend its __len__"
            ) from error
        return source
    hint = "; of a DataLoader give its data set, loader.dataset" if isinstance(source, DataLoader) else ""
    raise IntegrityError(
        f"the {name} part cannot be {described(source)}; give a pair of tensors or arrays (images, labels), or a "
        f"map-style data set (with __len__ and __getitem__) whose items are (image, label){hint}"
    )
