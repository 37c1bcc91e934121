"""Options of a compression that are "auto": candidates are scored before any training, and the best one is taken.

The score is label-free: the mean KL divergence of the logits of the whole compressed model, without any adapter, to
those of the uncompressed one, on a sample of training images.
"""

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.compress.contract import Compression
from pipeline.compress.training_compression import TrainingCompression
from pipeline.config.candidates import Auto, Tried
from pipeline.config.combination_spec import CombinationSpec
from pipeline.environment import plain_modes
from pipeline.errors import IntegrityError, SpecError
from pipeline.objective.auto_inits import with_best_init
from pipeline.objective.auto_sample import Sample
from pipeline.objective.combination import Combination
from pipeline.objective.outline import Outline
from pipeline.wording import as_written, counted

logger = logging.getLogger(__name__)
C = TypeVar("C", bound=Combination)
Autos = Sequence[Auto[Compression]]
Choice = tuple[int, ...]
"""The index of a candidate for each table with "auto"."""
MOST = 24
"""Candidates up to which all are scored; of more, one option after the other is chosen, with the best of the others."""


@plain_modes()
def decided(combination: Combination) -> Combination:
    """The combination with the best candidates of its compressions, then the best init, and what was tried for them.

    Without candidates it is the combination itself.

    Raises:
        SpecError: An option costs something; see ``refuse_costly_options``.
    """
    try:
        chosen, sample = _with_best_options(combination)
        return with_best_init(chosen, sample)
    except IntegrityError as error:  # damaged weights fail their combination alone, when its turn comes
        logger.warning(f"{combination.name}: what is auto keeps its defaults, as candidates cannot be scored: {error}")
        autos = combination.spec.autos
        first = _with(Combination, combination, having(combination.spec, (0,) * len(autos)))
        return first.with_inits(*first.search.inits)


def _with_best_options(combination: Combination) -> tuple[Combination, Sample | None]:
    """The combination with the best candidates of its compressions, and the sample on which they were compared."""
    autos = combination.spec.autos
    if not autos:
        return combination, None
    refuse_costly_options(combination)
    logger.info(f"{combination.name}: scoring {counted(most_scored(autos), 'candidate')} of options that are auto")
    best = _with(Combination, combination, having(combination.spec, (0,) * len(autos)))
    sample, least = Sample(best), math.inf

    def score(choice: Choice) -> float:
        nonlocal best, least
        one = _with(Combination, combination, having(combination.spec, choice)) if any(choice) else best
        found = sample.of_model(one.compressed.model)
        if found < least:
            best, least = one, found
        return found

    scores = search(autos, score)
    best.tried = sorted(
        (Tried(named_options(autos, choice), found) for choice, found in scores.items()), key=lambda t: t[1]
    )
    logger.info(f"{combination.name}: {best.tried[0]}")
    return best, sample


def search(autos: Autos, score: Callable[[Choice], float]) -> dict[Choice, float]:
    """The scores of choices: of all, or of those that differ from the best so far in one option after the other.

    An option whose other values do not go with the best so far waits until they do.
    """
    counts = [range(len(auto.candidates)) for auto in autos]
    if math.prod(map(len, counts)) <= MOST:
        return {choice: score(choice) for choice in itertools.product(*counts)}
    scores = {(0,) * len(autos): score((0,) * len(autos))}
    waiting = [(place, option) for place, auto in enumerate(autos) for option in auto.candidates[0].options]
    while waiting:
        best = min(scores, key=lambda choice: scores[choice])
        found = ((one, _others(autos, best, *one)) for one in waiting)
        one, others = next((pair for pair in found if pair[1]), (None, []))
        if one is None:
            break
        waiting.remove(one)
        scores |= {choice: score(choice) for choice in others if choice not in scores}
    return scores


def _others(autos: Autos, best: Choice, place: int, option: str) -> list[Choice]:
    """The choices that differ from the best one in a single option."""
    candidates = autos[place].candidates
    rest = {**candidates[best[place]].options, option: None}
    same = (i for i, candidate in enumerate(candidates) if {**candidate.options, option: None} == rest)
    return [(*best[:place], i, *best[place + 1 :]) for i in same if i != best[place]]


def most_scored(autos: Autos) -> int:
    """How many choices ``search`` scores, at most."""
    every = math.prod(len(auto.candidates) for auto in autos)
    if every <= MOST:
        return every
    values = [
        {one.options[option] for one in auto.candidates} for auto in autos for option in auto.candidates[0].options
    ]
    return 1 + sum(len(different) - 1 for different in values)


def named_options(autos: Autos, choice: Choice) -> Mapping[str, Any]:
    """The values of all options that are "auto", by names that tell the tables apart."""
    named = [auto.named(auto.candidates[i]) for auto, i in zip(autos, choice, strict=True)]
    return {name: value for one in named for name, value in one.items()}


def having(spec: CombinationSpec, choice: Choice) -> CombinationSpec:
    """A combination with chosen candidates."""
    return spec.having([auto.candidates[i].config for auto, i in zip(spec.autos, choice, strict=True)])


def refuse_costly_options(combination: Combination) -> None:
    """Refuse "auto" for options that cost training or bytes.

    Raises:
        SpecError: A compression trains the model, or candidates differ in size, or their size depends on values.
    """
    autos = combination.spec.autos
    for place, auto in enumerate(autos):
        key = "compression" if auto.entry is None else f"targets: compression{auto.of}, compression"
        for chosen, method in auto.candidates:
            if isinstance(method, TrainingCompression) or not method.sized_by_shape:
                why = "trains the model" if isinstance(method, TrainingCompression) else "has a size that values decide"
                raise SpecError(f"{key}.{next(iter(chosen))} = \"auto\", but '{method.name}' {why}; give a value")
        sizes = []
        for i in range(len(auto.candidates)):
            choice = tuple(i if index == place else 0 for index in range(len(autos)))
            sizes.append(_with(Outline, combination, having(combination.spec, choice)).compressed_size.bytes)
        first = auto.candidates[0].options
        for candidate, size in zip(auto.candidates, sizes, strict=True):
            if size != sizes[0]:
                option = next(key for key, value in candidate.options.items() if value != first[key])
                values = {first[option]: sizes[0], candidate.options[option]: size}
                said = " and ".join(f"{found:,} bytes with {as_written({option: v})}" for v, found in values.items())
                raise SpecError(
                    f'{key}.{option} = "auto" chooses among values of equal size, and the compressed model takes '
                    f"{said}; give a value"
                )


def _with(kind: type[C], combination: Combination, spec: CombinationSpec) -> C:
    """The combination, or its outline, with chosen compressions; layer statistics are shared."""
    return kind(
        combination.task,
        spec,
        combination.search,
        seed=combination.seed,
        device=combination.device,
        statistics=combination.statistics,
    )
