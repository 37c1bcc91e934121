"""Linear probing: only the classifier is trained."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.adapt.contract import Adapter, Draw, Start
from pipeline.adapt.methods.full import model_parameters
from pipeline.compress.contract import CompressedModel
from pipeline.config.registry import ADAPTERS
from pipeline.errors import SpecError


@ADAPTERS.register("head")
class Head(Adapter):
    """Trains the classifier, or all of several, which makes it dense: the cheapest rival of the other adapters."""

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        heads = tuple(f"{head}." for head in compressed.head)
        if not heads:
            raise SpecError("adapter 'head' trains the layer that gives the logits, which is not known of this model")
        return {key: tensor for key, tensor in model_parameters(compressed.model).items() if key.startswith(heads)}
