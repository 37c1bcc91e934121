"""Linear probing: only the classifier is trained."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.adapt.contract import Adapter, Draw
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.methods.full import model_parameters
from pipeline.compress.contract import CompressedModel
from pipeline.compress.targets import head_by_name
from pipeline.config.registry import ADAPTERS


@ADAPTERS.register("head")
class Head(Adapter):
    """Trains the classifier, or all of several, which makes it dense: the cheapest rival of the other adapters."""

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        names = compressed.head or head_by_name(compressed.model)  # the model may not have been run
        heads = tuple(f"{name}." for name in names)
        return {key: tensor for key, tensor in model_parameters(compressed.model).items() if key.startswith(heads)}
