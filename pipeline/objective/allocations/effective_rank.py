"""Allocation by effective rank (Roy and Vetterli, 2007)."""

from pipeline.compress.spectrum import effective_rank
from pipeline.config.registry import ALLOCATIONS
from pipeline.objective.allocations.contract import Allocation, Layer


@ALLOCATIONS.register("effective_rank")
class EffectiveRank(Allocation):
    """Ranks in proportion to ``exp(-sum p ln p)``, ``p_j = s_j / sum s``: more where errors have many directions."""

    def keys(self, layer: Layer) -> list[float]:
        if not layer.spectrum.any():
            return []
        effective = effective_rank(layer.spectrum)
        return [rank / effective for rank in range(1, layer.cost.most + 1)]
