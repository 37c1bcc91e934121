"""The tree-structured Parzen estimator (Bergstra et al., 2011), as Optuna implements it."""

from optuna.samplers import BaseSampler, TPESampler

from pipeline.config.registry import SAMPLERS
from pipeline.search.contract import Sampler


@SAMPLERS.register("tpe")
class Tpe(Sampler):
    """Tree-structured Parzen estimator: values where good trials are dense, bad ones not; for ten trials or more."""

    def build(self, seed: int) -> BaseSampler:
        return TPESampler(n_startup_trials=self.startup, seed=seed)
