"""Pruning below the median."""

from optuna.pruners import BasePruner, MedianPruner

from pipeline.config.fields import Count
from pipeline.config.registry import PRUNERS
from pipeline.search.contract import Pruner


@PRUNERS.register("median")
class Median(Pruner):
    """After start-up, trials below the median of complete ones at the same epoch end; gentler than halving."""

    retired = frozenset({"factor"})

    first: Count = 1
    """Epochs before the first decision."""

    def build(self, startup: int) -> BasePruner:
        return MedianPruner(n_startup_trials=startup, n_warmup_steps=self.first - 1)
