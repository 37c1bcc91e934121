"""Random search."""

from optuna.samplers import BaseSampler, RandomSampler

from pipeline.config.registry import SAMPLERS
from pipeline.search.contract import Sampler


@SAMPLERS.register("random")
class Random(Sampler):
    """Values drawn at random, whatever earlier trials gave: for few trials, or to compare others with."""

    learns = False

    def build(self, seed: int) -> BaseSampler:
        return RandomSampler(seed=seed)
