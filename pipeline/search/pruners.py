"""Which trials of a cell end early."""

import math

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial

from pipeline.config.spec import SearchSpec


class HalvingPruner(BasePruner):
    """Synchronous successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943) of trials that run together.

    At the rungs ``first * factor ** k`` a trial goes on if it is among the best ``ceil(n / factor)`` of the ``n``
    running trials of the study that reported at that rung. All of them must have reported before the first is judged.
    Stock pruners compare with complete trials only, and would prune nothing of a wave whose trials all run at once.

    Args:
        first: Step of the first rung.
        factor: Distance of the rungs, and the share that goes on.
    """

    def __init__(self, first: int = 1, factor: int = 3) -> None:
        self.first, self.factor = first, factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._is_rung(step):
            return False
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        reports = [peer.intermediate_values for peer in running]
        peers = sorted((sign * values[step] for values in reports if step in values), reverse=True)
        return sign * trial.intermediate_values[step] < peers[math.ceil(len(peers) / self.factor) - 1]

    def _is_rung(self, step: int) -> bool:
        rung = self.first
        while rung < step:
            rung *= self.factor
        return rung == step


def make_pruner(search: SearchSpec) -> BasePruner:
    """The pruner of a cell's history."""
    pruner = search.pruner
    if pruner.method == "none":
        return NopPruner()
    if pruner.method == "median":
        return MedianPruner(n_startup_trials=search.sampler.startup, n_warmup_steps=pruner.first - 1)
    return HalvingPruner(pruner.first, pruner.factor)


def expected_epochs(search: SearchSpec) -> float:
    """Epochs that a trial trains on average: all of them, or what halving leaves of a full wave."""
    if search.pruner.method != "halving":
        return search.epochs
    live, total, before, rung = search.ask_ahead, 0, 0, search.pruner.first
    while rung < search.epochs:
        total += live * (rung - before)
        live, before, rung = math.ceil(live / search.pruner.factor), rung, rung * search.pruner.factor
    return (total + live * (search.epochs - before)) / search.ask_ahead
