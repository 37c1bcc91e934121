"""The parts of a plan that tell scores before training: of cells, and of candidates for what is "auto"."""

import time
from collections.abc import Sequence
from typing import Any

from pipeline.config.candidates import Tried
from pipeline.objective.auto_options import most_scored, named_options
from pipeline.objective.auto_sample import AUTO_IMAGES
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective
from pipeline.objective.scores import ERROR_IMAGES, ranked, score_cells


def plan_scores(objective: Objective) -> dict[str, Any]:
    """The score of every cell before any training, best first, and the seconds that scoring took."""
    started = time.perf_counter()
    scores = ranked(score_cells(objective))
    return {
        "images": scores[0].images if scores else 0,
        "error_images": min(ERROR_IMAGES, len(objective.combination.task.train)),
        "seconds": round(time.perf_counter() - started, 1),
        "cells": [
            {**vars(score.cell), "accuracy": score.accuracy, "output_error": score.output_error} for score in scores
        ],
    }


def plan_auto(combination: Combination) -> dict[str, Any] | None:
    """How many candidates options that are "auto" have, and their scores, the best first; None if nothing is "auto"."""
    autos, tried = combination.spec.autos, combination.tried
    if not autos and not tried:
        return None
    return {
        "options": list(tried[0].options if tried else named_options(autos, (0,) * len(autos))),
        **_candidates(combination, len(tried) or most_scored(autos), tried),
    }


def plan_auto_inits(combination: Combination) -> dict[str, Any] | None:
    """The same for an init that is "auto"."""
    inits, tried = combination.search.init_candidates, combination.tried_inits
    return _candidates(combination, len(tried) or len(inits), tried) if inits or tried else None


def _candidates(combination: Combination, count: int, tried: Sequence[Tried]) -> dict[str, Any]:
    images = min(AUTO_IMAGES, len(combination.task.train))
    return {"candidates": count, "images": images, "scores": [one._asdict() for one in tried] or None}
