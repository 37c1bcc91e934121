"""What can be wrong with a study's data, found before its first trial."""

import hashlib
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

from pipeline.config.task_spec import TaskSpec
from pipeline.environment import versions
from pipeline.errors import IntegrityError, RestoraError
from pipeline.guard import check_stop
from pipeline.hashes import fingerprint
from pipeline.paths import CHECKED, write_text
from pipeline.task.class_counts import ADD_IMAGES, ClassCounts
from pipeline.task.data.contract import Images, Items
from pipeline.task.data.decode import as_rgb
from pipeline.task.split import divide

logger = logging.getLogger(__name__)

CHECKS = 1
"""Version of the checks of images; data that passed other ones is checked again."""
SHOWN = 20
"""How many faults of one kind are listed; the rest are counted."""


class Finding(NamedTuple):
    """The result of one check."""

    what: str
    """What was checked, as a claim: "every image decodes"."""
    ok: bool
    said: str
    """What was found: the faults and what to do about them, or what was counted."""
    error: RestoraError | None = None
    """The error that a run ends with, if the check failed."""


class DecodedImage(NamedTuple):
    """What decoding one image showed; ``fault`` says why it cannot be decoded."""

    mode: str = ""
    """Pillow's mode of the stored image."""
    digest: str = ""
    """sha256 of its size and RGB pixels."""
    fault: str = ""


def refuse_bad_data(spec: TaskSpec, images: Images, hashes: Mapping[str, str], *, begun: bool) -> None:
    """Check the data of a study before its first trial; data that passed once is not checked again.

    A study that has ``begun`` may go on with bad data, which are logged: mending them would make it a study of other
    data. ``hashes`` are the sha256 of the task's ``data`` and ``split``.

    Raises:
        IntegrityError: A check failed, and the study has not begun.
    """
    path = CHECKED / f"{fingerprint([CHECKS, hashes['data'], hashes['split']])}.json"
    if path.exists():
        return
    logger.info("data: every image is decoded once, before the first trial")
    failed = [finding for finding in check_images(spec, images) if not finding.ok]
    said = "\n".join(f"{finding.what}: {finding.said}" for finding in failed)
    if failed and not begun:
        raise IntegrityError(f"the data is not ready:\n{said}")
    if failed:
        logger.warning(f"data: this study goes on with data that a new one would refuse:\n{said}")
        return
    note = json.dumps({"data": hashes["data"], "split": hashes["split"], "versions": versions()})
    write_text(path, note)


def check_images(spec: TaskSpec, images: Images) -> Iterator[Finding]:
    """Check the labels of a data set, decode every image, and look for images in both train and test."""
    classes, parts = len(images.classes), images.parts()
    divided = divide(images, spec.split).items(images)
    if spec.metric.uses_labels:
        wrong = [
            f"{items.where(index)}: {int(items.labels[index])}"
            for items in parts.values()
            for index in ((items.labels < 0) | (items.labels >= classes)).nonzero().flatten().tolist()
        ]
        to_do = "correct these labels, or leave the images out"
        yield _finding("labels are in range", wrong, to_do, f"0 to {classes - 1}")
        what = "classes have training images"
        if classes < 2:
            yield Finding(what, False, f"{classes} class; give two or more")
        else:
            found = ClassCounts.of(images, divided)
            yield _finding(what, found.untrained(), ADD_IMAGES, f"all {classes}; {found.largest()}")
    decoded = {items: _decode_all(items) for items in parts.values()}
    every = list(itertools.chain(*decoded.values()))
    faults = [image.fault for image in every if image.fault]
    yield _finding("every image decodes", faults, "replace or remove these files", f"{len(every)} images")
    modes = Counter(image.mode for image in every if image.mode not in ("", "RGB"))
    counts = ", ".join(f"{count} of mode {mode}" for mode, count in sorted(modes.items()))
    yield Finding("images become RGB", True, f"converted: {counts}" if counts else "all are")
    yield _no_duplicates(images, divided, decoded)


def _decode_all(items: Items) -> list[DecodedImage]:
    def decode(index: int) -> DecodedImage:
        check_stop()
        try:
            stored = items.stored(index)
            image = as_rgb(stored, items.where(index))
        except RestoraError as error:
            return DecodedImage(fault=str(error))
        return DecodedImage(stored.mode, hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest())

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(decode, range(len(items))))


def _no_duplicates(
    images: Images, divided: Mapping[str, tuple[Items, Tensor]], decoded: Mapping[Items, list[DecodedImage]]
) -> Finding:
    """Whether no test image has the pixels of a training or validation image."""
    what = "no image in train and test"
    *learned, (tested, chosen) = divided.values()
    where = {decoded[items][index].digest: (items, index) for items, indices in learned for index in indices.tolist()}
    where.pop("", None)
    duplicates = [
        f"{tested.where(index)} is {items.where(other)}"
        for index in chosen.tolist()
        if (digest := decoded[tested][index].digest) in where
        for items, other in [where[digest]]
    ]
    if duplicates and images.published:
        return Finding(what, True, f"{len(duplicates)} of {len(chosen)} test images are in both, as published")
    to_do = "remove one of each pair, or test accuracy is flattered"
    return _finding(what, duplicates, to_do, f"{len(chosen)} test images compared")


def _finding(what: str, faults: list[str], to_do: str, sound: str) -> Finding:
    """The faults, one per line, and what to do about them; ``sound`` if there are none."""
    if not faults:
        return Finding(what, True, sound)
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    listed = "\n  ".join([f"{len(faults)} found:", *faults[:SHOWN], *more])
    return Finding(what, False, f"{listed}\nto do: {to_do}")
