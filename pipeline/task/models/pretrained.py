"""Image classifiers whose weights come from a library or a local file; what does not fit is named."""

import functools
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.errors import IntegrityError, SpecError
from pipeline.task.models.contract import ModelSource, Positive
from pipeline.task.models.fitting import Target, load_weights, of_other_shape, other_classes
from pipeline.task.models.state_dict import find_weights
from pipeline.task.models.weight_set import Architecture, Origin, Weights
from pipeline.task.models.weights_file import read_weights

logger = logging.getLogger(__name__)


class CheckpointSource(ModelSource):
    """A source of image classifiers whose weights may come from a local file."""

    later: ClassVar[frozenset[str]] = frozenset({"weights_key", "outputs"})

    architecture: str
    """Name of the architecture."""
    checkpoint: str | None = None
    """File of the weights: ``.safetensors``, ``.npz``, or one that ``torch.load(weights_only=True)`` reads."""
    weights_key: str | None = None
    """Which set of a checkpoint with several to take, by its keys joined by dots, e.g. ``"state_dict_ema"``."""
    rename: Literal["none", "order"] = "none"
    """``"order"`` pairs the checkpoint's entries with the model's by their order where the names differ."""
    new_head: bool = False
    """Replace a head with another number of classes than the data; the baseline trains the new head."""
    outputs: Annotated[tuple[Annotated[int, Field(ge=0)], ...] | None, Field(strict=False, min_length=2)] = None
    """Which output of the weights stands for each class of the data, in the order of the classes."""
    image_size: int | None = Field(None, ge=1)
    """Side of the input in pixels; else that of the weights. A resize before a crop is scaled with it."""
    mean: Annotated[tuple[float, float, float] | None, Field(strict=False)] = None
    """Mean of RGB in 0..1; else that of the weights."""
    std: Annotated[tuple[Positive, Positive, Positive] | None, Field(strict=False)] = None
    """Standard deviation of RGB in 0..1; else that of the weights."""

    @model_validator(mode="after")
    def _options_have_weights(self) -> "CheckpointSource":
        if self.outputs is not None and (self.new_head or not self.pretrained):
            reason = "new_head = true replaces them" if self.new_head else "the model has no weights"
            raise ValueError(f"outputs selects outputs of the weights, and {reason}; remove outputs")
        if self.outputs is not None and len(set(self.outputs)) < len(self.outputs):
            raise ValueError("outputs names an output twice; give each class its own")
        if self.checkpoint is not None and "://" in self.checkpoint:
            raise ValueError(f"checkpoint = '{self.checkpoint}' is no local file; download it, and name the file")
        if self.weights_key is not None and self.checkpoint is None:
            raise ValueError("weights_key chooses a set of a checkpoint, and none is given; remove weights_key")
        return self

    @abstractmethod
    def fetch(self) -> Mapping[str, Tensor]:
        """The state dict of the weights that the library knows, from a cache or over the network."""

    @contextmanager
    def downloading(self, weights: str = "weights") -> Iterator[None]:
        """Name the weights in the errors of a download; without a network it raises whatever its transport raises."""
        try:
            yield
        except Exception as error:
            raise IntegrityError(
                f"{weights} of '{self.architecture}' are not there: looked for them in the hub's cache and on the hub "
                f"({type(error).__name__}: {error}); run once with a network, or give task.model.checkpoint"
            ) from error

    @abstractmethod
    def known_classes(self) -> int:
        """The number of classes of those weights."""

    def translated(self, entries: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The entries of a state dict under today's names, where the library knows older ones."""
        return entries

    def load(self, classes: int) -> nn.Module:
        if self.outputs is not None and len(self.outputs) != classes:
            raise SpecError(
                f"task.model.outputs has {len(self.outputs)} outputs, and the data has {classes} classes; give one "
                f"for each class"
            )
        known = self.known_classes() if self.pretrained and self.checkpoint is None else classes
        if known != classes and self.outputs is None and not self.new_head:
            raise SpecError(
                f"the weights of '{self.architecture}' have {known} classes, the data has {classes}; "
                f"{other_classes(known, classes)}"
            )
        model = self.build(classes)
        if self.pretrained:
            architecture, where, weights = self._found(model, classes)
            if left_out := weights.left_out():
                under = f"the weights are those under '{weights.prefix.rstrip('.')}'; " if weights.prefix else ""
                logger.info(f"{where}: {under}left out: {', '.join(left_out)}")
            sized = functools.partial(self._sized, model, classes)
            load_weights(architecture, weights, Target(where, classes, self.new_head, self.outputs, sized))
        return model

    def pretrained_classes(self) -> int:
        if self.outputs is not None:
            return len(self.outputs)
        if self.checkpoint is None:
            return self.known_classes()
        architecture, where, weights = self._found(self.build(2), 2)
        for name in architecture.head() & weights.entries.keys():
            return len(weights.entries[name])
        raise IntegrityError(
            f"{where} has no head of '{self.architecture}'; name the architecture that the weights are of"
        )

    def given(self) -> dict[str, Any]:
        """``mean`` and ``std``, as far as they are given."""
        return {name: value for name, value in {"mean": self.mean, "std": self.std}.items() if value is not None}

    def _found(self, model: nn.Module, classes: int) -> tuple[Architecture, str, Weights]:
        """The one set of weights in the file or of the library, with what messages call its origin."""

        @functools.cache
        def head() -> set[str]:
            return of_other_shape(model.state_dict(), self.build(classes + 1).state_dict())

        architecture = Architecture(model, head, lambda entries: self.translated(entries, model))
        if self.checkpoint is None:
            content, origin = self.fetch(), Origin(f"the weights of {self.name}'s '{self.architecture}'")
            return architecture, origin.where, find_weights(content, architecture, origin)
        path = Path(self.checkpoint).expanduser()
        file = read_weights(path)
        origin = Origin(str(path), self.weights_key, self.rename == "order", file.ordered)
        return architecture, origin.where, find_weights(file.content, architecture, origin)

    def _sized(self, model: nn.Module, classes: int) -> set[str]:
        """The names of the entries whose shape depends on the image size."""
        side, sized = self.preprocessing(model).facts["input"][-1], set[str]()
        for other in (side // 4, side // 2, 2 * side):
            # Raises what the library raises if the architecture has no such size.
            with suppress(Exception):
                resized = self.model_copy(update={"image_size": other}).build(classes)
                sized |= of_other_shape(model.state_dict(), resized.state_dict())
        return sized
