"""Pruning below the median."""

from optuna.pruners import BasePruner, MedianPruner

from pipeline.config.fields import Count
from pipeline.config.registry import PRUNERS
from pipeline.config.search_spec import SearchSpec
from pipeline.search.contract import Pruner, too_late


@PRUNERS.register("median")
class Median(Pruner):
    """After start-up, trials below the median of complete ones at the same epoch end; gentler than halving."""

    retired = frozenset({"factor"})

    first: Count = 1
    """Epochs before the first decision."""

    def build(self, startup: int) -> BasePruner:
        return MedianPruner(n_startup_trials=startup, n_warmup_steps=self.first)

    def expected_epochs(self, search: SearchSpec) -> float:
        """Every other trial after the start-up is below the median at the first decision."""
        ending = 0 if self.idle(search) else (search.trials - search.sampler.startup) / 2
        return search.epochs * search.trials - ending * (search.epochs - self.first)

    def idle(self, search: SearchSpec) -> str | None:
        startup = search.sampler.startup
        if startup < search.trials:
            return too_late(self.first, search)
        return (
            f"it compares with {startup} complete trials of a cell, which has {search.trials}; lower "
            f"search.sampler.startup or raise search.trials"
        )
