"""Which scores pictures show, and how: values, error bars, and lines of the models to compare with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures.axes import error, error_axis, part_name
from pipeline.report.figures.labels import short
from pipeline.report.figures.style import DASHES, Look
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CellResult, CombinationResult, Score, mean_accuracy
from pipeline.wording import seed_count

UNTESTED = {"test": "", "val": "Not every winner is tested yet"}
"""The subtitle of a picture that shows this part of the data."""


@dataclass(frozen=True)
class Shown:
    """The scores of one model on one part of the data.

    Args:
        scores: One score per seed, the study's own seed first.
        failed: The number of seeds under which training failed.
    """

    scores: tuple[Score, ...]
    failed: int = 0

    @property
    def images(self) -> int:
        return self.scores[0].images

    @property
    def mean(self) -> float:
        return mean_accuracy(self.scores)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest accuracy over the seeds."""
        accuracies = [score.accuracy for score in self.scores]
        return min(accuracies), max(accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of one test at the mean: the variation from the choice of test images."""
        return Score(round(self.mean * self.images), self.images).interval

    @property
    def y(self) -> float:
        return error(self.mean, self.images)

    @property
    def text(self) -> str:
        (low, high), (least, most) = self.interval, self.ends
        seeds = self.over_seeds(f"{least:.2%}", f"{most:.2%}")
        return f"{self.mean:.2%} of {self.images:,} images{seeds} (95 %: {low:.2%} to {high:.2%})"

    def over_seeds(self, least: str, most: str) -> str:
        """The text after a mean over several seeds, with the lowest and the highest value; empty for one seed."""
        seeds = seed_count(len(self.scores), self.failed)
        if len(self.scores) > 1:
            return f", mean of {seeds} from {least} to {most}"
        return f", {seeds}" if self.failed else ""


def cell_score(result: CombinationResult, cell: CellResult, part: str) -> Shown | None:
    """The scores of a cell's winner on a part, or None. On ``val`` it is the one score that the search found."""
    if part == "test":
        return Shown(tuple(tested.test for tested in cell.tested), len(cell.failed_seeds)) if cell.tested else None
    if cell.best is None or cell.best.value is None or "val" not in result.baseline:
        return None
    images = result.baseline["val"].images
    return Shown((Score(round(cell.best.value * images), images),))


def validated_on(result: CombinationResult) -> int:
    """The number of validation images; a million if it is not known yet, which is more than any part has."""
    return result.baseline["val"].images if "val" in result.baseline else 1_000_000


def whiskers(shown: Sequence[Shown]) -> dict[str, Any]:
    """Thin error bars for plotly: the Wilson intervals."""
    return _bars([one.interval for one in shown], shown) | {"width": 3, "thickness": 1}


def seed_bars(shown: Sequence[Shown]) -> dict[str, Any]:
    """Thick error bars for plotly: from the lowest to the highest seed."""
    return _bars([one.ends for one in shown], shown) | {"width": 0, "thickness": 5}


def _bars(ends: Sequence[tuple[float, float]], shown: Sequence[Shown]) -> dict[str, Any]:
    lower = [one.y - error(high, one.images) for (_, high), one in zip(ends, shown, strict=True)]
    upper = [error(low, one.images) - one.y for (low, _), one in zip(ends, shown, strict=True)]
    return {"array": [round(bar, 6) for bar in upper], "arrayminus": [round(bar, 6) for bar in lower]}


def accuracy_axis(results: Sequence[CombinationResult], part: str, shown: Sequence[Shown]) -> dict[str, Any]:
    """An accuracy axis, logarithmic in the error, that has room for all error bars."""
    return error_axis([error(end, one.images) for one in shown for end in (*one.interval, *one.ends)]) | {
        "title": part_name(results, part)
    }


def originals(results: Sequence[CombinationResult], part: str) -> Iterator[tuple[str, CombinationResult]]:
    """The original models without repetitions, with their names in legends."""
    found = dict[tuple[object, ...], CombinationResult]()
    for result in results:
        if part in result.baseline:
            found.setdefault(_baseline(result, part), result)
    for result in found.values():
        yield f"original, {short(result.of)}" if len(found) > 1 else "original", result


def _baseline(result: CombinationResult, part: str) -> tuple[object, ...]:
    hashes = result.facts.get("hashes", {})
    return (*(hashes.get(name) for name in ("weights", "data", "split")), result.baseline[part])


def draw_references(figure: Any, look: Look, results: Sequence[CombinationResult], part: str) -> list[Shown]:
    """Draw thick lines for the original models, and thin dashed ones for the compressed-only models."""
    lines = [
        (name, {"width": 3, "dash": DASHES[index % len(DASHES)]}, result.baseline[part])
        for index, (name, result) in enumerate(originals(results, part))
    ]
    lines += [
        (look.compressed_name(result.label), {"width": 1.5, "dash": look.dash(result.label)}, result.compressed[part])
        for result in results
        if part in result.compressed
    ]
    for name, line, score in lines:
        y = error(score.accuracy, score.images)
        label = f"{name}: {score.accuracy:.2%}"
        figure.add_hline(y=y, line={"color": NEUTRAL, **line}, name=label, showlegend=True)
    return [Shown((score,)) for *_, score in lines]
