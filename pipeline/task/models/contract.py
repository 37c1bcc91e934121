"""What a model source is: an architecture, its weights where it has any, and the preprocessing that belongs to them."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from pipeline.config.registry import Method

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Preprocessing:
    """From an RGB image to the model's input ``[channels, height, width]``."""

    transform: Callable[[Image.Image], Tensor]
    facts: dict[str, Any]
    """In words and numbers: ``input`` shape, ``mean``, ``std``, and ``steps`` before normalisation. JSON-able."""

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image)


class ModelSource(Method):
    """Where a model comes from."""

    @property
    @abstractmethod
    def pretrained(self) -> bool:
        """Whether ``load`` brings weights."""

    @abstractmethod
    def build(self, classes: int) -> nn.Module:
        """The architecture with ``classes`` outputs and random weights; reads no file and asks no hub.

        Raises:
            SpecError: The architecture cannot have so many outputs.
        """

    @abstractmethod
    def load(self, classes: int) -> nn.Module:
        """The model with its weights, or as ``build`` gives it where it has none.

        Raises:
            IntegrityError: The weights are not there, damaged, or another architecture's.
        """

    @abstractmethod
    def own_classes(self) -> int:
        """How many classes its weights tell apart, whatever data it is given.

        Raises:
            IntegrityError: The weights are not there, damaged, or another architecture's.
        """

    @abstractmethod
    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """What the model's weights expect of an image."""
