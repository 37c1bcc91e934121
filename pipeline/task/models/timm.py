"""Models of timm, with the preprocessing of their weights (Wightman: PyTorch Image Models)."""

import io
import itertools
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from pipeline.config.registry import MODELS
from pipeline.config.table import nearest
from pipeline.errors import SpecError
from pipeline.task.models.contract import Preprocessing
from pipeline.task.models.pretrained import CheckpointSource


def _timm() -> Any:
    # Imported late, because that takes seconds; ``Any``, because timm does not mark what it exports.
    import timm.data

    return timm


HEAD_BIAS = re.compile(r"(.*/)?head/(.*/)?bias")
"""The array of JAX's files that has one value per class."""


class _Archive(io.BytesIO):
    """An archive in memory that notes the offsets at which its members are read."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = set[int]()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_SET:
            self.offsets.add(offset)
        return super().seek(offset, whence)


def from_jax(arrays: Mapping[str, Tensor], build: Callable[[int], nn.Module]) -> dict[str, Tensor]:
    """The state dict of arrays in which Google published ViT and BiT, by the architecture's own ``load_pretrained``.

    That function leaves out silently what does not fit: entries of the model that it does not set are missing here, and
    arrays that it does not read keep their names.

    Args:
        arrays: The arrays of an ``.npz`` file, such as ``Transformer/encoder_norm/scale``.
        build: Builds the architecture with a number of outputs.

    Raises:
        Exception: Whatever timm raises for arrays of another architecture.
    """
    classes = (len(value) for name, value in arrays.items() if HEAD_BIAS.fullmatch(name))
    model: Any = build(next(classes, 2))
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            nn.init.constant_(tensor, float("nan"))
    archive = _Archive()
    np.savez(archive, **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
    archive.seek(0)
    archive.offsets.clear()
    model.load_pretrained(archive)
    read = set(archive.offsets)
    with zipfile.ZipFile(archive) as members:
        unread = [info.filename.removesuffix(".npy") for info in members.infolist() if info.header_offset not in read]
    state = {name: value for name, value in model.state_dict().items() if not value.isnan().all()}
    return {**state, **{name: arrays[name] for name in unread}}


@MODELS.register("timm")
class Timm(CheckpointSource):
    """Image classifiers of timm: from its hub, from a local checkpoint, or untrained."""

    architecture: str
    """A model name of timm, with or without a weights tag: ``vit_tiny_patch16_224.augreg_in21k``."""
    hub: bool = False
    """Load the weights from the hub, or from its local cache."""

    @field_validator("architecture")
    @classmethod
    def _known(cls, architecture: str) -> str:
        timm = _timm()
        if not timm.is_model(architecture):
            raise ValueError(f"timm has no such model{nearest(architecture, timm.list_models())}")
        try:
            timm.models.get_pretrained_cfg(architecture)
        except RuntimeError as error:
            tags = ", ".join(timm.list_models(f"{architecture.partition('.')[0]}.*", pretrained=True))
            raise ValueError(f"{error} allowed: {tags}") from None
        return architecture

    @model_validator(mode="after")
    def _one_origin(self) -> "Timm":
        if self.hub and self.checkpoint is not None:
            raise ValueError("hub = true and checkpoint are both given; remove one")
        return self

    @property
    def pretrained(self) -> bool:
        return self.hub or self.checkpoint is not None

    def build(self, classes: int) -> nn.Module:
        return self._create(classes, pretrained=False)

    def _create(self, classes: int, *, pretrained: bool) -> nn.Module:
        timm = _timm()
        known = timm.models.get_pretrained_cfg(self.architecture)
        # Models with a fixed input size, such as ViTs, are built for it; the others refuse the argument.
        sized = self.image_size is not None and known is not None and known.fixed_input_size
        size = {"img_size": self.image_size} if sized else {}
        model: nn.Module = timm.create_model(self.architecture, pretrained=pretrained, num_classes=classes, **size)
        return model

    def fetch(self) -> Mapping[str, Tensor]:
        with self.downloading():
            return self._create(self.known_classes(), pretrained=True).state_dict()

    def translated(self, entries: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """By timm's function for the files that the architecture's authors published; it also resizes positions."""
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        try:
            if hasattr(model, "load_pretrained") and any("/" in name for name in entries):
                return from_jax(entries, self.build)
            return dict(convert(entries, model)) if convert else entries
        except Exception:  # timm's own, for files that are not of this architecture
            return entries

    def known_classes(self) -> int:
        known = _timm().models.get_pretrained_cfg(self.architecture)
        if known is None:
            raise SpecError(f"timm has no weights of '{self.architecture}'; remove hub, or give task.model.checkpoint")
        return int(known.num_classes)

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        data, given = _timm().data, self.given()
        if self.image_size is not None:
            given["input_size"] = (3, self.image_size, self.image_size)
        config = data.resolve_data_config(given, model=model)
        transform = data.create_transform(**config, is_training=False)
        steps = ", ".join(str(step) for step in transform.transforms[:-1])
        facts = {name: list(config[key]) for name, key in (("input", "input_size"), ("mean", "mean"), ("std", "std"))}
        return Preprocessing(transform, {**facts, "steps": steps})
