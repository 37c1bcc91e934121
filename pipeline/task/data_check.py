"""What is looked at before a study starts: is everything there, does every image decode, can the numbers be trusted."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from pipeline.config.task_spec import TaskSpec
from pipeline.errors import RestoraError
from pipeline.task.data.contract import Images, Items
from pipeline.task.data.decode import as_rgb
from pipeline.task.split import split

Tick = tuple[str, bool, str]

SHOWN = 20
"""How many findings of one kind are listed; the rest is counted."""


@dataclass(frozen=True)
class _Seen:
    """One image as it was found: its mode, the sha256 of its pixels, or why it has none."""

    mode: str = ""
    digest: str = ""
    fault: str = ""


def check(spec: TaskSpec) -> Iterator[Tick]:
    """Yield ``(what, ok, said)``, one finding after the other; decodes every image, trains nothing."""
    try:
        images: Images = spec.data.open()
    except RestoraError as error:
        yield "data is there", False, str(error)
        return
    sizes = f"{len(images.train)} training images, " + (
        f"{len(images.test)} of test, " if images.test is not None else ""
    )
    yield "data is there", True, f"{sizes}{len(images.classes)} classes"
    yield _model_loads(spec, len(images.classes))
    if spec.metric == "accuracy":  # else no label is used
        yield _labels_in_range(images)
        yield _classes_have_images(images)
    train = _look_at(images.train)
    test = _look_at(images.test) if images.test is not None else []
    yield from _images_decode([*train, *test])
    yield _nothing_twice(spec, images, train, test)


def _model_loads(spec: TaskSpec, classes: int) -> Tick:
    what = "model loads"
    try:
        with torch.random.fork_rng(devices=[]):
            model = spec.model.load(spec.model.own_classes() if spec.metric == "agreement" else classes)
    except RestoraError as error:
        return what, False, str(error)
    size = sum(parameter.numel() for parameter in model.parameters())
    if not spec.model.pretrained and spec.baseline is None:
        return what, False, "it has no weights of its own, and there is no [task.baseline] to train them; add one"
    return what, True, f"{size} parameters, " + ("with weights" if spec.model.pretrained else "to be trained")


def _labels_in_range(images: Images) -> Tick:
    classes = len(images.classes)
    wrong = [
        f"{items.where(int(place))}: {int(items.labels[place])}"
        for items in _parts(images)
        for place in ((items.labels < 0) | (items.labels >= classes)).nonzero().flatten()
    ]
    said = _listed(wrong, "mend these labels, or leave the images out")
    return "labels are in range", not wrong, said or f"0 to {classes - 1}"


def _classes_have_images(images: Images) -> Tick:
    classes = len(images.classes)
    empty = []
    for name, items in (("train", images.train), ("test", images.test)):
        if items is not None:
            present = set(items.labels.tolist())
            empty += [f"{name}: class '{images.classes[label]}'" for label in range(classes) if label not in present]
    if classes < 2:
        return "classes have images", False, f"{classes} class; give two or more"
    return "classes have images", not empty, _listed(empty, "add images, or remove the class") or f"all {classes}"


def _look_at(items: Items) -> list[_Seen]:
    def look(index: int) -> _Seen:
        try:
            stored = items.stored(index)
            image = as_rgb(stored, items.where(index))
        except RestoraError as error:
            return _Seen(fault=str(error))
        return _Seen(stored.mode, hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest())

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(look, range(len(items))))


def _images_decode(seen: list[_Seen]) -> Iterator[Tick]:
    faults = [each.fault for each in seen if each.fault]
    yield "every image decodes", not faults, _listed(faults, "replace or remove these files") or f"{len(seen)} images"
    kinds = Counter(each.mode for each in seen if each.mode not in ("", "RGB"))
    counts = ", ".join(f"{count} of mode {mode}" for mode, count in sorted(kinds.items()))
    yield "images become RGB", True, f"converted: {counts}" if counts else "all are"


def _nothing_twice(spec: TaskSpec, images: Images, train: list[_Seen], test: list[_Seen]) -> Tick:
    """No image of the test part is one that is trained or judged on."""
    learned, held = list(enumerate(train)), [(images.test, place, seen) for place, seen in enumerate(test)]
    if images.test is None:
        divided = split(images.train.labels, spec.split, test=True)
        chosen = set(divided.test.tolist()) if divided.test is not None else set()
        held = [(images.train, place, seen) for place, seen in learned if place in chosen]
        learned = [(place, seen) for place, seen in learned if place not in chosen]
    places = {seen.digest: place for place, seen in learned if seen.digest}
    twice = [
        f"{items.where(place)} is {images.train.where(places[seen.digest])}"
        for items, place, seen in held
        if items is not None and seen.digest in places
    ]
    said = _listed(twice, "remove one of each pair, or test accuracy is flattered")
    return "no image in train and test", not twice, said or f"{len(held)} test images compared"


def _parts(images: Images) -> list[Items]:
    return [images.train, images.test] if images.test is not None else [images.train]


def _listed(findings: list[str], to_do: str) -> str:
    """The findings, a line each, and what to do about them."""
    if not findings:
        return ""
    more = [f"and {len(findings) - SHOWN} more"] if len(findings) > SHOWN else []
    return "\n  ".join([f"{len(findings)} found:", *findings[:SHOWN], *more]) + f"\nto do: {to_do}"
