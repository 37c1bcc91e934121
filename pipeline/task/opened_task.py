"""A study file's ``[task]`` before its baseline is trained: data, model, split and what identifies them."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError, RestoraError, SpecError
from pipeline.hashes import fingerprint, hash_weights
from pipeline.paths import BASELINES
from pipeline.task.class_counts import ADD_IMAGES, ClassCounts
from pipeline.task.contract import check_parts
from pipeline.task.data.contract import Images, Items
from pipeline.task.image_size import input_of, misfit
from pipeline.task.models.contract import Preprocessing
from pipeline.task.parts import DatasetPart, Part
from pipeline.task.split import Split, divide
from pipeline.wording import listed, printable


class OpenedTask:
    """What a ``[task]`` names, each opened when first used, then kept.

    Raises (by any of its properties):
        SpecError: The model does not fit the data or cannot take its images, or has neither weights nor a baseline to
            train.
        IntegrityError: Data or weights are not there, damaged, or unusable.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec

    @cached_property
    def images(self) -> Images:
        """The data set; no image is decoded yet."""
        return self.spec.data.open()

    @cached_property
    def classes(self) -> int:
        """The number of outputs of the model."""
        spec = self.spec
        return len(self.images.classes) if spec.metric.uses_labels else spec.model.pretrained_classes()

    @cached_property
    def model(self) -> nn.Module:
        """The model with its weights, or with random ones if a baseline is to be trained."""
        source = self.spec.model
        _refuse_without_weights(self.spec)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the generators of the GPUs too.
            torch.default_generator.manual_seed(self.spec.split.seed)
            try:
                return source.load(self.classes)
            except RestoraError:
                raise
            except Exception as error:  # architectures that are built for an image size raise errors of their own
                raise misfit(source, self.classes, error) from error

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What makes the model's input of an image."""
        return self.spec.model.preprocessing(self.model)

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the model's input without its batch, once the model has taken one such image."""
        return input_of(self.spec.model, self.model, self.preprocessing, self.classes)

    @cached_property
    def divided(self) -> Split:
        """Which images are of which part."""
        return divide(self.images, self.spec.split)

    @cached_property
    def class_counts(self) -> ClassCounts:
        """How many images each class has in each part."""
        return ClassCounts.of(self.images, self.divided.items(self.images))

    @cached_property
    def notes(self) -> list[str]:
        """What was read of the data, what was left out, and how uneven the classes are: one phrase each."""
        return [*self.images.notes, *(self.class_counts.notes() if self.spec.metric.uses_labels else ())]

    @property
    def read(self) -> dict[str, list[str]]:
        """Facts of the task that name no file and no study: they may be long, or worded anew by another version."""
        names = {"class_names": list(map(printable, self.images.classes))} if self.spec.metric.uses_labels else {}
        return {**names, "data_notes": self.notes}

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The parts ``train``, ``val`` and ``test``; an image is decoded when it is first used."""
        parts: dict[str, Part] = {}
        if self.spec.metric.uses_labels and (untrained := self.class_counts.untrained()):
            raise IntegrityError(f"classes without training images: {listed(untrained)}; {ADD_IMAGES}")
        for name, (items, indices) in self.divided.items(self.images).items():
            selected = _Selected(items, indices, self.preprocessing)
            parts[name] = DatasetPart(selected, items.labels[indices], name=name, threads=os.cpu_count() or 1)
        check_parts(parts, self.classes if self.spec.metric.uses_labels else None)
        return parts

    @cached_property
    def hashes(self) -> dict[str, str]:
        """sha256 of ``data`` and ``split``."""
        return {"data": self.images.fingerprint(), "split": self.divided.hash()}

    @cached_property
    def description(self) -> dict[str, Any]:
        """JSON-able facts of the task, from which its bare architecture can be built again."""
        spec = self.spec
        return {
            "model": spec.model.model_dump(mode="json"),
            "data": spec.data.model_dump(mode="json", exclude=set(spec.data.location)),
            "split": spec.split.model_dump(mode="json"),
            "baseline": spec.baseline and spec.baseline.model_dump(mode="json"),
            "classes": self.classes,
            "preprocessing": self.preprocessing.facts,
            "parts": {name: len(part) for name, part in self.parts.items()},
            "trained": True,
        }

    @cached_property
    def baseline_file(self) -> Path:
        """The file of the trained baseline, by the hash of everything that it depends on."""
        key = fingerprint({**self.description, **self.hashes, "initial": hash_weights(self.model)})
        return BASELINES / f"{key}.safetensors"


def _refuse_without_weights(spec: TaskSpec) -> None:
    """Refuse a model that would stay untrained."""
    if not spec.metric.uses_labels and not spec.model.pretrained:
        raise SpecError(
            f"task.metric = \"{spec.metric.name}\" needs a trained model, and task.model '{spec.model.name}' has none: "
            f"give it hub, weights or a checkpoint"
        )
    if spec.baseline is None and not spec.model.pretrained:
        raise SpecError(
            f"task.model '{spec.model.name}' has no weights, and there is no [task.baseline] to train them; "
            f"add one, e.g. epochs = 10"
        )
    if spec.baseline is None and getattr(spec.model, "new_head", False):
        raise SpecError(
            "task.model.new_head = true leaves the head random, and there is no [task.baseline] to train it; add one, "
            "e.g. epochs = 10"
        )


@dataclass
class _Selected:
    """Preprocessed images of the items at some indices, as a map-style data set."""

    items: Items
    indices: Tensor
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        image, label = self.items[int(self.indices[index])]
        return self.preprocessing(image), label
