"""The init of a combination where ``search.inits`` is "auto": that whose starts bring the outputs nearest.

Every init is tried at every rank: the compressed model with the adapter's start beside it is compared with the
uncompressed model, as the candidates of a compression are. Starts that change nothing, such as ``paper``, score as the
compressed model does.
"""

import logging
from statistics import mean

from pipeline.adapt.contract import Draw
from pipeline.adapt.lanes import Lanes
from pipeline.cell import Cell
from pipeline.config.candidates import Tried
from pipeline.objective.auto_sample import Sample
from pipeline.objective.bases import Bases
from pipeline.objective.combination import Combination
from pipeline.seeds import derive
from pipeline.space import middle
from pipeline.wording import counted

logger = logging.getLogger(__name__)


def with_best_init(combination: Combination, sample: Sample | None) -> Combination:
    """The combination with the best of its init candidates, and what was tried; itself without candidates.

    ``sample`` is that on which its compression was chosen, if it was.
    """
    inits = combination.search.init_candidates
    if not inits:
        return combination
    logger.info(f"{combination.name}: scoring {counted(len(inits), 'init')}, as search.inits is auto")
    found, every = sample or Sample(combination), combination.with_inits(*inits)  # it shares the compressed model
    bases = Bases(every, found.recipe, found.features)
    scores = {init: mean(_score(bases, Cell(rank, init.name), found) for rank in every.search.ranks) for init in inits}
    chosen = combination.with_inits(min(scores, key=lambda init: scores[init]))
    chosen.tried_inits = sorted((Tried({"init": init.name}, scores[init]) for init in inits), key=lambda one: one[1])
    logger.info(f"{combination.name}: {chosen.tried_inits[0]}")
    return chosen


def _score(bases: Bases, cell: Cell, sample: Sample) -> float:
    """The divergence of a cell's model before training, with its tensors rounded as a file stores them."""
    combination, base = bases.combination, bases.of(cell)
    adapter, values = combination.adapter, middle(cell, combination.search, combination.adapter)
    draw = Draw(values.alpha, values.extra, derive(combination.seed, "adapter"))
    begun = adapter.begin(base.compressed, combination.starts(values, combination.seed), draw)
    stored = adapter.rounded(begun, combination.storage)
    lane = {name: tensor[None].to(combination.device) for name, tensor in stored.items()}
    return sample.of_lane(base.program, base.program.bind(Lanes([(lane, [values.alpha])])))
