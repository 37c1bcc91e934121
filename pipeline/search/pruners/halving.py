"""Synchronous successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943)."""

import math

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from pydantic import Field

from pipeline.config.fields import Count
from pipeline.config.registry import PRUNERS
from pipeline.config.search_spec import SearchSpec
from pipeline.search.budget import waves
from pipeline.search.contract import Pruner, too_late


@PRUNERS.register("halving")
class Halving(Pruner):
    """Successive halving, which saves most: at each rung the best 1 / ``factor`` go on; rungs are a factor apart."""

    first: Count = 1
    """Epochs before the first decision."""
    factor: int = Field(3, ge=2)
    """Ratio of one rung's epochs to the one before it, and of the trials before a rung to those that go on."""

    def build(self, startup: int) -> BasePruner:
        return HalvingPruner(self.first, self.factor)

    def expected_epochs(self, search: SearchSpec) -> float:
        return sum(self._epochs_of(wave, search.epochs) for wave in waves(search))

    def _epochs_of(self, wave: int, epochs: int) -> int:
        """Epochs that the trials of a wave train together, if no two are equally good."""
        going_on, total, before, rung = wave, 0, 0, self.first
        while rung < epochs:
            total += going_on * (rung - before)
            going_on, before, rung = math.ceil(going_on / self.factor), rung, rung * self.factor
        return total + going_on * (epochs - before)

    def idle(self, search: SearchSpec) -> str | None:
        if max(waves(search)) > 1:
            return too_late(self.first, search)
        key = "ask_ahead" if search.ask_ahead == 1 else "trials"
        return (
            f"it compares trials of a cell that run at the same time, and each runs alone; raise search.{key} from "
            f"{getattr(search, key)}"
        )


class HalvingPruner(BasePruner):
    """Successive halving of trials that run at the same time.

    At the rungs, steps ``first * factor ** k``, a trial goes on if it is among the best ``ceil(n / factor)`` of the
    ``n`` running trials of the study that reported there. All of them must have reported before the first is judged.
    Optuna's pruners compare with complete trials only, and would prune nothing of trials that all run at once.
    """

    def __init__(self, first: int = 1, factor: int = 3) -> None:
        self.first, self.factor = first, factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step, rung = trial.last_step or 0, self.first
        while rung < step:
            rung *= self.factor
        if rung != step:
            return False
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        reports = [peer.intermediate_values for peer in running]
        peers = sorted((sign * values[step] for values in reports if step in values), reverse=True)
        return sign * trial.intermediate_values[step] < peers[math.ceil(len(peers) / self.factor) - 1]
