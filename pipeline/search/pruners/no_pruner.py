"""No pruning."""

from optuna.pruners import BasePruner, NopPruner

from pipeline.config.registry import PRUNERS
from pipeline.search.contract import Pruner


@PRUNERS.register("none")
class NoPruner(Pruner):
    """Every trial trains all its epochs: where late epochs decide, or every curve is wanted."""

    retired = frozenset({"first", "factor"})

    def build(self, startup: int) -> BasePruner:
        return NopPruner()
