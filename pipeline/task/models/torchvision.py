"""Models of torchvision, with the preprocessing of their weights."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import field_validator, model_validator
from torch import Tensor, nn

from pipeline.config.registry import MODELS
from pipeline.config.table import nearest
from pipeline.task.models.contract import Preprocessing
from pipeline.task.models.pretrained import CheckpointSource

DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)\.")
"""Names in torchvision's published DenseNets: ``norm.1`` for today's ``norm1``."""


def _torchvision_models() -> Any:
    # Imported late, because that takes seconds; ``Any``, because torchvision does not mark what it exports.
    import torchvision.models

    return torchvision.models


WITH_AUXILIARY_LOGITS = ("googlenet", "inception_v3")
"""Architectures with further heads, which only training uses; their published weights take images normalised anew."""


@MODELS.register("torchvision")
class Torchvision(CheckpointSource):
    """Image classifiers of torchvision: with its weights, from a local checkpoint, or untrained."""

    architecture: str
    """A classifier in ``torchvision.models.list_models()``."""
    weights: str | None = None
    """Name of torchvision's weights to load, e.g. ``"DEFAULT"``."""

    @field_validator("architecture")
    @classmethod
    def _known(cls, architecture: str) -> str:
        names = _torchvision_models().list_models(module=_torchvision_models())
        if architecture not in names:
            raise ValueError(f"torchvision has no such classifier{nearest(architecture, names)}")
        return architecture

    @model_validator(mode="after")
    def _known_weights(self) -> "Torchvision":
        if self.weights is not None and self.checkpoint is not None:
            raise ValueError("weights and checkpoint are both given; remove one")
        names = list(_torchvision_models().get_model_weights(self.architecture).__members__)
        if self.weights is not None and self.weights not in names:
            raise ValueError(
                f"weights = '{self.weights}' is unknown for {self.architecture}{nearest(self.weights, names)}; "
                f"allowed: {', '.join(names)}"
            )
        return self

    @property
    def pretrained(self) -> bool:
        return self.weights is not None or self.checkpoint is not None

    def build(self, classes: int) -> nn.Module:
        options: dict[str, object] = {}
        if self.image_size is not None and self.architecture.startswith("vit_"):  # only they have a fixed input size
            options["image_size"] = self.image_size
        if self.architecture in WITH_AUXILIARY_LOGITS:
            options = {"aux_logits": False, "init_weights": True, "transform_input": self.weights is not None}
        model: nn.Module = _torchvision_models().get_model(
            self.architecture, weights=None, num_classes=classes, **options
        )
        return model

    def fetch(self) -> Mapping[str, Tensor]:
        with self.downloading(f"weights '{self.weights}'"):
            state: Mapping[str, Tensor] = self._weights().get_state_dict(progress=False, check_hash=True)
        return state

    def translated(self, entries: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        return {DENSENET.sub(r"\1\2.", name): value for name, value in entries.items()}

    def known_classes(self) -> int:
        return len(self._weights().meta["categories"])

    def _weights(self) -> Any:
        """The chosen weights, else the default ones, whose preprocessing is the architecture's."""
        return _torchvision_models().get_model_weights(self.architecture)[self.weights or "DEFAULT"]

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        transforms = self._weights().transforms
        preset = transforms()
        given = self.given()
        if self.image_size is not None:
            resize = round(self.image_size * preset.resize_size[0] / preset.crop_size[0])
            given |= {"crop_size": self.image_size, "resize_size": resize}
        transform = transforms(**given)
        side = transform.crop_size[0]
        scaled = f"resize to {transform.resize_size[0]} ({transform.interpolation.value})"
        steps = f"{scaled}, crop the centre {side}, to 0..1"
        facts = {"input": [3, side, side], "mean": list(transform.mean), "std": list(transform.std), "steps": steps}
        return Preprocessing(transform, facts)
