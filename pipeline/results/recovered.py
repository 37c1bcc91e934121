"""The share of what compression lost that an adapter won back."""

from pipeline.numbers import wilson
from pipeline.results.stored_results import CellResult, CombinationResult, Score, mean_accuracy


def lost(original: Score, compressed: Score) -> bool:
    """Whether compression lost more than chance may: the compressed model lies below the original's 95 % interval."""
    return compressed.accuracy < wilson(original.correct, original.images)[0]


def recovery(original: Score, compressed: Score, recovered: float) -> float | None:
    """``(recovered - compressed) / (original - compressed)``: 0 where nothing was won back, 1 where all of it was.

    Returns:
        None where compression lost no more than chance may, so that there is nothing to win back.
    """
    if not lost(original, compressed):
        return None
    return (recovered - compressed.accuracy) / (original.accuracy - compressed.accuracy)


def cell_recovery(result: CombinationResult, cell: CellResult, part: str) -> float | None:
    """That of a cell's winner on ``val`` or ``test``; None also where something is not measured yet."""
    accuracy = winner_accuracy(cell, part)
    if accuracy is None or part not in result.baseline or part not in result.compressed:
        return None
    return recovery(result.baseline[part], result.compressed[part], accuracy)


def winner_accuracy(cell: CellResult, part: str) -> float | None:
    """What a cell's winner is compared by: on ``test`` the mean over its seeds, on ``val`` what the search found."""
    if part == "test":
        return mean_accuracy(tested.test for tested in cell.tested) if cell.tested else None
    return cell.best.value if cell.best else None
