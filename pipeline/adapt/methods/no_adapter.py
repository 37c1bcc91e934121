"""No recovery: the compressed model as it is."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from pipeline.adapt.contract import Adapter, Draw, Start
from pipeline.compress.contract import CompressedModel
from pipeline.config.registry import ADAPTERS


@ADAPTERS.register("none")
class NoAdapter(Adapter):
    """Nothing is trained: what compression alone leaves, as one trial."""

    trains: ClassVar[bool] = False

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        return {}
