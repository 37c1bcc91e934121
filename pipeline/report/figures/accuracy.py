"""Which accuracy a picture shows, and the axis that shows it: near 100 % the last tenth is as wide as the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures.look import log_axis
from pipeline.report.tables import interval
from pipeline.search.results import CellResult, CombinationResult, Score


@dataclass(frozen=True)
class Shown:
    """One accuracy as a place on the axis, and its 95 % interval as lengths below and above it."""

    score: Score
    y: float
    lower: float
    upper: float

    @property
    def text(self) -> str:
        low, high = interval(self.score)
        return f"{self.score.accuracy:.2%} of {self.score.images} images (95 %: {low:.2%} to {high:.2%})"


def shown_part(results: Sequence[CombinationResult]) -> str:
    """``test`` where every winner is tested, else ``val``: one picture never mixes the two."""
    winners = [cell for result in results for cell in result.cells if cell.best]
    return "test" if winners and all(cell.test for cell in winners) else "val"


def cell_score(result: CombinationResult, cell: CellResult, part: str) -> Score | None:
    """The winner's score on a part, if there is one."""
    if part == "test":
        return cell.test
    if cell.best is None or cell.best.value is None or "val" not in result.baseline:
        return None
    images = result.baseline["val"].images
    return Score(round(cell.best.value * images), images)


def shown(score: Score) -> Shown:
    """Place a score on the axis."""
    low, high = interval(score)
    y = error(score.accuracy, score.images)
    return Shown(score, y, lower=y - error(high, score.images), upper=error(low, score.images) - y)


def error(accuracy: float, images: int) -> float:
    """Wrong answers in percent, half an image at least: the axis is logarithmic and has no zero."""
    return 100 * max(1 - accuracy, 0.5 / images)


def error_bars(scores: Sequence[Shown], width: int) -> dict[str, Any]:
    """Plotly's error bars of some scores, with ends of ``width`` pixels."""
    lower, upper = [one.lower for one in scores], [one.upper for one in scores]
    return {"array": upper, "arrayminus": lower, "width": width, "thickness": 1}


def accuracy_axis(part: str, scores: Sequence[Shown]) -> dict[str, Any]:
    """A y axis of accuracies that is spaced by the logarithm of the error."""
    axis = log_axis([end for one in scores for end in (one.y - one.lower, one.y + one.upper)], reverse=True)
    name = "Test accuracy (%)" if part == "test" else "Validation accuracy (%), not all tested yet"
    return {**axis, "title": name, "ticktext": [f"{100 - tick:.6g}" for tick in axis["tickvals"]]}
