"""The contract of model sources: an architecture, its weights if any, and the preprocessing of those weights."""

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
    """A function from an RGB image to the model's input ``[channels, height, width]``, float32."""

    transform: Callable[[Image.Image], Tensor]
    facts: dict[str, Any]
    """JSON-able: the ``input`` shape, ``mean``, ``std``, and in words the ``steps`` before normalisation."""

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image)


class ModelSource(Method):
    """A registered source of models; its fields are the options of ``[task.model]``."""

    @property
    @abstractmethod
    def pretrained(self) -> bool:
        """Whether ``load`` loads trained weights."""

    @abstractmethod
    def build(self, classes: int) -> nn.Module:
        """Build the architecture with ``classes`` outputs and random weights. Reads no file, uses no network.

        Raises:
            SpecError: The architecture cannot have this number of outputs.
        """

    @abstractmethod
    def load(self, classes: int) -> nn.Module:
        """The model with its weights, or with random ones if it has none.

        Raises:
            IntegrityError: The weights are not there, damaged, or of another architecture.
        """

    @abstractmethod
    def pretrained_classes(self) -> int:
        """The number of classes that its weights were trained for.

        Raises:
            IntegrityError: The weights are not there, damaged, or of another architecture.
        """

    @abstractmethod
    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """The preprocessing that the model's weights expect."""
