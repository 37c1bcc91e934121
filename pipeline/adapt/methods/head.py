"""Linear probing: only the classifier is trained."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.adapt.contract import Adapter, Draw, Start
from pipeline.adapt.methods.full import model_parameters
from pipeline.compress.contract import CompressedModel
from pipeline.compress.targets import find_targets
from pipeline.config.registry import ADAPTERS


@ADAPTERS.register("head")
class Head(Adapter):
    """Trains the classifier, or all of several, which makes it dense: the cheapest rival of the other adapters."""

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        heads = tuple(f"{head}." for head in find_targets(compressed.model, ["head"]))
        return {key: tensor for key, tensor in model_parameters(compressed.model).items() if key.startswith(heads)}
