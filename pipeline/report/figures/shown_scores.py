"""How pictures show the scores of models: values, texts, error bars and axes."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.report.figures.axes import error, error_axis, part_name
from pipeline.report.figures.style import Look
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.comparison import Scores, winner_scores
from pipeline.wording import seed_count

UNTESTED = {"test": "", "val": "Not every winner is tested yet"}
"""The subtitle of a picture that shows this part of the data."""

Winner = tuple[CellResult, Scores]


def winners_by_init(
    results: Sequence[CombinationResult], look: Look, part: str
) -> Iterator[tuple[CombinationResult, str, list[Winner]]]:
    """The measured winners of each combination and init, by ascending rank; inits without any are left out."""
    for result in results:
        cells = sorted(result.cells, key=lambda cell: cell.cell.rank)
        found = [(cell, scores) for cell in cells if (scores := winner_scores(result, cell, part))]
        for init in look.inits:
            if winners := [winner for winner in found if winner[0].cell.init == init]:
                yield result, init, winners


def shown_error(scores: Scores) -> float:
    """Where scores are drawn on an axis that is logarithmic in the error."""
    return error(scores.mean, scores.images)


def score_text(scores: Scores) -> str:
    (low, high), (least, most) = scores.interval, scores.ends
    seeds = over_seeds(scores, f"{least:.2%}", f"{most:.2%}")
    return f"{scores.mean:.2%} of {scores.images:,} images{seeds} (95 %: {low:.2%} to {high:.2%})"


def over_seeds(scores: Scores, least: str, most: str) -> str:
    """The text after a mean over several seeds, with the lowest and the highest value; empty for one seed."""
    seeds = seed_count(len(scores.by_seed), scores.failed)
    if len(scores.by_seed) > 1:
        return f", mean of {seeds} from {least} to {most}"
    return f", {seeds}" if scores.failed else ""


def validated_on(result: CombinationResult) -> int:
    """The number of validation images; a million if it is not known yet, which is more than any part has."""
    return result.baseline["val"].images if "val" in result.baseline else 1_000_000


def add_winners(figure: Any, x: Sequence[Any], shown: Sequence[Scores], texts: Sequence[str], **trace: Any) -> None:
    """Draw scores with their Wilson intervals as thin whiskers.

    Those with several seeds also get a thick bar, from the lowest to the highest seed.
    """
    whiskers = {**_bars([(one, one.interval) for one in shown]), "width": 3, "thickness": 1}
    y = [shown_error(one) for one in shown]
    figure.add_scatter(x=x, y=y, error_y=whiskers, hovertext=texts, hoverinfo="text", **trace)
    several = [(place, one) for place, one in zip(x, shown, strict=True) if len(one.by_seed) > 1]
    if several:
        seed_bars = {**_bars([(one, one.ends) for _, one in several]), "width": 0, "thickness": 5}
        places, heights = [place for place, _ in several], [shown_error(one) for _, one in several]
        figure.add_scatter(x=places, y=heights, error_y=seed_bars, hoverinfo="skip", **{**trace, "mode": "markers"})


def _bars(ends: Sequence[tuple[Scores, tuple[float, float]]]) -> dict[str, Any]:
    lower = [shown_error(one) - error(high, one.images) for one, (_, high) in ends]
    upper = [error(low, one.images) - shown_error(one) for one, (low, _) in ends]
    return {"array": [round(bar, 6) for bar in upper], "arrayminus": [round(bar, 6) for bar in lower]}


def accuracy_axis(results: Sequence[CombinationResult], part: str, shown: Sequence[Scores]) -> dict[str, Any]:
    """An accuracy axis, logarithmic in the error, that has room for all error bars."""
    errors = [error(end, one.images) for one in shown for end in (*one.interval, *one.ends)]
    return {**error_axis(errors), "title": part_name(results, part)}
