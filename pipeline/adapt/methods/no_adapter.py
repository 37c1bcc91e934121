"""No adapter: the compressed-only model."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.adapt.contract import Adapter, Draw
from pipeline.adapt.inits.contract import Start
from pipeline.compress.contract import CompressedModel
from pipeline.config.registry import ADAPTERS


@ADAPTERS.register("none")
class NoAdapter(Adapter):
    """Trains nothing, in one trial: to measure what compression alone leaves."""

    trains = False

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        return {}
