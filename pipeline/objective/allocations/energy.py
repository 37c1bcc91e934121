"""Allocation by a shared share of energy."""

from pipeline.config.registry import ALLOCATIONS
from pipeline.objective.allocations.contract import Allocation, Layer


@ALLOCATIONS.register("energy")
class Energy(Allocation):
    """The lowest ranks that hold one share of each layer's ``sum s^2``: to approximate all layers equally well."""

    def keys(self, layer: Layer) -> list[float]:
        energy = layer.spectrum.square().cumsum(0)
        if not energy[-1]:
            return []
        share_before = [0.0, *(energy / energy[-1]).tolist()]
        return [share for share in share_before[: layer.cost.most] if share < 1]
