"""Allocation by marginal gain."""

from itertools import accumulate

from pipeline.config.registry import ALLOCATIONS
from pipeline.objective.allocations.contract import Allocation, Layer


@ALLOCATIONS.register("gain")
class Gain(Allocation):
    """The next rank goes to the largest ``sensitivity s_j^2 / cost``: where gradients show which layers matter."""

    uses_gradients = True
    one_by_one = True

    def keys(self, layer: Layer) -> list[float]:
        values = enumerate(layer.spectrum[: layer.cost.most].tolist(), 1)
        gains = (layer.sensitivity * s**2 / layer.cost.step(rank) for rank, s in values)
        # A rank cannot be given before the one below it, so its gain counts at most as much as that one's.
        return [-gain for gain in accumulate(gains, min)]
