"""The task: a trained model, the parts of its data, and the metric to restore."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from pipeline.config.registry import METRICS, Method
from pipeline.environment import plain_modes
from pipeline.errors import IntegrityError, SpecError
from pipeline.hashes import fingerprint, hash_tensors, hash_weights
from pipeline.task.bare_model import bare_copy, extra_state
from pipeline.task.conversion import described
from pipeline.task.inspection import Inspection, inspect
from pipeline.task.parts import Part as Part
from pipeline.task.sources import PartField, refuse_other_classes, sound_images


def check_parts(parts: Mapping[str, Part], classes: int | None) -> None:
    """Refuse parts that cannot be trained or measured on; no image is read.

    Without a number of classes labels are not used, and only the parts' lengths count.

    Raises:
        IntegrityError: A part is empty, its labels are not int64 ``[N]``, a label is not in ``0 .. classes - 1``, a
            class has no training image, or all training images are of one class.
    """
    for name, part in parts.items():
        if not len(part):
            raise IntegrityError(f"the {name} part is empty; give it images, or split off a larger fraction")
    if classes is None:
        return
    for name, part in parts.items():
        labels = part.labels
        if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.shape != (len(part),):
            raise IntegrityError(
                f"the labels of the {name} part are {described(labels)}; they must be a tensor, int64 [{len(part)}]"
            )
        wrong = ((labels < 0) | (labels >= classes)).nonzero()
        if len(wrong):
            index = int(wrong[0])
            raise IntegrityError(
                f"label {int(labels[index])} of image {index} of the {name} part is out of range; the model has "
                f"{classes} classes, so labels are 0 to {classes - 1}"
            )
    counts = torch.bincount(parts["train"].labels, minlength=classes)
    present, absent = counts.nonzero().flatten().tolist(), (counts == 0).nonzero().flatten().tolist()
    if len(present) == 1:
        raise IntegrityError(
            f"every training image is of class {present[0]}; there is nothing to learn: give two classes or more, "
            f'or metric = "agreement", which uses no labels'
        )
    if absent:
        named = ", ".join(map(str, absent[:10])) + (", ..." if len(absent) > 10 else "")
        raise IntegrityError(
            f"{len(absent)} of {classes} classes have no training image: {named}; add images, or give a model with "
            f"as many outputs as there are classes"
        )


def first_images(part: Part) -> torch.Tensor:
    """The first images of a part, ``[n, ...]``: two, or one if there is but one."""
    images, _ = next(iter(part.batches(2, torch.arange(min(2, len(part))))))
    return images


def _json_facts(description: object) -> dict[str, Any]:
    """The facts of a description; an ``IntegrityError`` if cards and databases cannot hold them."""
    try:
        json.dumps(description, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"the description cannot be stored: {error}; give text and numbers by name") from None
    if not isinstance(description, Mapping) or not all(isinstance(name, str) for name in description):
        raise IntegrityError(f"the description is {described(description)}; give text and numbers by name")
    return dict(description)


class Metric(Method):
    """What trials are judged by: the share of images for which a model ranks the label's class first.

    A metric may replace the labels of the data set by labels of its own.
    """

    uses_labels: ClassVar[bool] = True
    """Whether the labels come from the data set. If not, they come from a trained model, so no baseline is trained."""

    def relabelled(
        self, part: Part, model: nn.Module, device: str | torch.device | None = None, file: Path | None = None
    ) -> Part:
        """The part with the labels of this metric; by default those of the data set.

        Args:
            part: The images, with the labels of the data set.
            model: The uncompressed model, in eval mode.
            device: Where ``model`` runs; by default where it is.
            file: File in which computed labels may be kept; its name is a hash of everything that they depend on.
        """
        return part


@dataclass(frozen=True, eq=False)
class Task:
    """A model and its data, from a study file or from a user's own module and data sets.

    Args:
        model: The trained, uncompressed module. It maps a batch of images to logits ``[n, classes]``. The task copies
            it, in eval mode and frozen, so the given module may be trained further.
        train, val, test: What ``as_part`` takes: a pair of tensors, arrays or lists ``(images, labels)``, a map-style
            data set of ``(image, label)``, or a ``Part``. All images have one shape; they are computed in float32.
            A float32 tensor on the CPU is not copied, and must not change afterwards.
        metric: The metric to restore: ``accuracy``, or ``agreement`` with the classes that the uncompressed model
            predicts, which then replace all labels.
        description: JSON-able facts for the card and the stored study, from which ``rebuild`` makes the architecture.
            What is found by running the model, such as ``classes`` and ``head``, is added.
        hashes: sha256 of ``weights``, ``data`` and ``split``. Missing ones are computed; for ``data`` that reads every
            image once.

    Raises:
        IntegrityError: A part is empty, an image or a label cannot be taken, images differ in shape or are not finite,
            a class has no training image, all training images are of one class, the model's logits are not finite, or
            the description is not JSON-able.
        SpecError: There is no such metric.
    """

    model: nn.Module
    train: PartField = PartField()
    val: PartField = PartField()
    test: PartField = PartField()
    metric: str = "accuracy"
    description: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    inspection: Inspection = field(init=False)

    @plain_modes()
    def __post_init__(self) -> None:
        model = bare_copy(self.model).cpu()
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.dtype != torch.float32:
                raise IntegrityError(
                    f"parameter '{name}' is {parameter.dtype}; sizes are compared with a float32 model, so give "
                    f"model.float()"
                )
        parts = {"train": self.train, "val": self.val, "test": self.test}
        try:
            metric = METRICS.parse(self.metric)
        except ValueError as error:
            raise SpecError(f"metric = {self.metric!r}: {error}") from None
        description = {**_json_facts(self.description), "metric": self.metric}
        check_parts(parts, classes=None)
        inspection = inspect(model, first_images(parts["train"]))
        found = {"classes": inspection.outputs, "head": list(inspection.head), "model_notes": inspection.notes}
        extra = {"extra_state": state} if (state := extra_state(model)) else {}
        description = {**found, **extra, **description}
        if metric.uses_labels:
            refuse_other_classes(parts)
            check_parts(parts, description["classes"])
        hashes = {**self._missing_hashes(model, parts, metric), **self.hashes}
        parts = {name: metric.relabelled(part, model) for name, part in parts.items()}
        values = {"model": model, **parts, "description": description, "hashes": hashes, "inspection": inspection}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def trained(self) -> bool:
        """False if the baseline was left untrained; ``hashes`` then lacks ``weights``."""
        return bool(self.description.get("trained", True))

    def _missing_hashes(self, model: nn.Module, parts: Mapping[str, Part], metric: Metric) -> dict[str, str]:
        hashes = {}
        if "weights" not in self.hashes and self.trained:
            hashes["weights"] = hash_weights(model)
        if "data" not in self.hashes:
            shape = first_images(parts["train"]).shape[1:]
            batches = {name: sound_images(part, name, shape) for name, part in parts.items()}
            images = {name: hash_tensors(("images", batch) for batch in read) for name, read in batches.items()}
            hashes["data"] = fingerprint(images)
        if "split" not in self.hashes:
            if metric.uses_labels:
                hashes["split"] = hash_tensors((name, part.labels) for name, part in parts.items())
            else:  # the labels follow from weights and data
                hashes["split"] = fingerprint([self.metric, {name: len(part) for name, part in parts.items()}])
        return hashes
