"""Options of a compression that are "auto": each candidate is scored before any training, and the best one is taken.

The score is label-free: the mean KL divergence of the logits of the whole compressed model, without any adapter, to
those of the uncompressed one, on a sample of training images.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from pipeline.compress.contract import Compression
from pipeline.compress.layers import on_device
from pipeline.compress.training_compression import TrainingCompression
from pipeline.config.candidates import Candidate, Tried
from pipeline.environment import plain_modes
from pipeline.errors import IntegrityError, SpecError
from pipeline.guard import check_stop
from pipeline.objective.combination import Combination
from pipeline.objective.outline import Outline
from pipeline.seeds import derive
from pipeline.train.losses.contract import divergence
from pipeline.wording import counted

logger = logging.getLogger(__name__)
C = TypeVar("C", bound=Combination)
AUTO_IMAGES = 512
"""Images of the training part on which candidates are scored, the first of a seeded permutation."""
MOST = 24
"""Candidates up to which all are scored; of more, one option after the other is chosen, with the best of the others."""
PASS = 64
"""Images per pass."""


@plain_modes()
def decided(combination: Combination) -> Combination:
    """The combination with the best candidate of its compression, and what was ``tried``; itself without candidates.

    Raises:
        SpecError: An option costs something; see ``refuse_costly_options``.
    """
    candidates = combination.spec.candidates
    if not candidates:
        return combination
    refuse_costly_options(combination)
    logger.info(f"{combination.name}: scoring {counted(most_scored(candidates), 'candidate')} of options that are auto")
    order, reference = _sample(combination), on_device(combination.model, combination.device)
    teacher, best = _logits(combination, reference, order), dict[float, Combination]()

    def score(candidate: Candidate[Compression]) -> float:
        one = _with(Combination, combination, candidate.config)
        found = float(divergence(_logits(one, one.compressed.model, order)[None], teacher, 1.0))
        found = found if math.isfinite(found) else math.inf
        if not best or found < min(best):
            best.clear()
            best[found] = one
        return found

    try:
        scores = search(candidates, score)
    except IntegrityError:  # damaged weights fail their combination alone, when its turn comes
        return _with(Combination, combination, combination.spec.compression)
    ((_, chosen),) = best.items()
    chosen.tried = sorted((Tried(candidates[i].options, found) for i, found in scores.items()), key=lambda one: one[1])
    logger.info(f"{combination.name}: {chosen.tried[0]}")
    return chosen


def search(
    candidates: Sequence[Candidate[Compression]], score: Callable[[Candidate[Compression]], float]
) -> dict[int, float]:
    """The scores of candidates, by their index: of all, or of those that differ from the best in one option in turn."""
    if len(candidates) <= MOST:
        return {i: score(candidate) for i, candidate in enumerate(candidates)}
    scores = {0: score(candidates[0])}
    for option in candidates[0].options:
        best = candidates[min(scores, key=lambda i: scores[i])]
        for i, candidate in enumerate(candidates):
            if i not in scores and {**candidate.options, option: None} == {**best.options, option: None}:
                scores[i] = score(candidate)
    return scores


def most_scored(candidates: Sequence[Candidate[Compression]]) -> int:
    """How many candidates ``search`` scores, at most."""
    if len(candidates) <= MOST:
        return len(candidates)
    values = [{candidate.options[option] for candidate in candidates} for option in candidates[0].options]
    return 1 + sum(len(different) - 1 for different in values)


def refuse_costly_options(combination: Combination) -> None:
    """Refuse "auto" for options that cost training or bytes.

    Raises:
        SpecError: The compression trains the model, or candidates differ in size, or their size depends on values.
    """
    candidates = combination.spec.candidates
    for options, method in candidates:
        if isinstance(method, TrainingCompression) or not method.sized_by_shape:
            why = "trains the model" if isinstance(method, TrainingCompression) else "has a size that values decide"
            raise SpecError(f"compression.{next(iter(options))} = \"auto\", but '{method.name}' {why}; give a value")
    sizes = [_with(Outline, combination, candidate.config).compressed_size.bytes for candidate in candidates]
    for candidate, size in zip(candidates, sizes, strict=True):
        if size != sizes[0]:
            option = next(key for key, value in candidate.options.items() if value != candidates[0].options[key])
            values = {candidates[0].options[option]: sizes[0], candidate.options[option]: size}
            said = " and ".join(f"{value} {found:,}" for value, found in values.items())
            raise SpecError(
                f'compression.{option} = "auto" chooses among values of equal size, and the compressed model takes '
                f"bytes: {said}; give one of them"
            )


def _with(kind: type[C], combination: Combination, compression: Compression) -> C:
    """The combination, or its outline, with a chosen compression; layer statistics are shared."""
    return kind(
        combination.task,
        combination.spec.having(compression),
        combination.search,
        seed=combination.seed,
        device=combination.device,
        statistics=combination.statistics,
    )


def _sample(combination: Combination) -> torch.Tensor:
    """The training images on which candidates are scored."""
    generator = torch.Generator().manual_seed(derive(combination.seed, "auto"))
    return torch.randperm(len(combination.task.train), generator=generator)[:AUTO_IMAGES]


@torch.no_grad()
def _logits(combination: Combination, model: nn.Module, order: torch.Tensor) -> torch.Tensor:
    """The logits ``[n, C]`` of a model on training images, in float64."""
    logits = []
    for images, _ in combination.task.train.batches(PASS, order):
        check_stop()
        logits.append(model(images.to(combination.device)).double().cpu())
    return torch.cat(logits)
