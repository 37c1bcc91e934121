"""How winners are compared: with each other, with the original model, and with the compressed-only model."""

from collections.abc import Sequence

from pipeline.numbers import pareto_front
from pipeline.results.combination_result import CellResult, CombinationResult, Score, mean_accuracy


def compared_part(results: Sequence[CombinationResult]) -> str:
    """The part of the data by which winners are compared: ``test`` if all are tested, otherwise ``val``."""
    winners = [cell for result in results for cell in result.cells if cell.best]
    return "test" if winners and all(cell.test for cell in winners) else "val"


def winner_accuracy(cell: CellResult, part: str) -> float | None:
    """The accuracy by which a cell's winner is compared.

    Args:
        cell: The cell.
        part: ``test`` for the mean over the winner's seeds, ``val`` for what the search found.

    Returns:
        From 0 to 1; None if the cell has no winner, or it is not tested yet.
    """
    if part == "test":
        return mean_accuracy(tested.test for tested in cell.tested) if cell.tested else None
    return cell.tally.best


def lost(original: Score, compressed: Score) -> bool:
    """Whether compression lost more than chance explains: its accuracy is below the original's 95 % interval."""
    return compressed.accuracy < original.interval[0]


def recovery(original: Score, compressed: Score, recovered: float) -> float | None:
    """``(recovered - compressed) / (original - compressed)``: 0 if nothing was restored, 1 if everything was.

    Returns:
        None if compression lost no more than chance explains, so that there is nothing to restore.
    """
    if not lost(original, compressed):
        return None
    return (recovered - compressed.accuracy) / (original.accuracy - compressed.accuracy)


def cell_recovery(result: CombinationResult, cell: CellResult, part: str) -> float | None:
    """The recovery of a cell's winner on ``val`` or ``test``; None also if something is not measured yet."""
    accuracy = winner_accuracy(cell, part)
    if accuracy is None or part not in result.baseline or part not in result.compressed:
        return None
    return recovery(result.baseline[part], result.compressed[part], accuracy)


def unbeaten(results: Sequence[CombinationResult], part: str) -> list[tuple[CombinationResult, CellResult]]:
    """The checkpoints of a study that no other model beats in both size and accuracy, by ascending size.

    The compressed-only models compete too. Combinations of different studies are not comparable.
    """
    checkpoints = [(result, cell) for result in results for cell in result.best_of_ranks().values()]
    points = [(winner_bytes(cell), winner_accuracy(cell, part) or 0.0) for _, cell in checkpoints]
    points += [
        (result.facts["compressed_bytes"], result.compressed[part].accuracy)
        for result in results
        if part in result.compressed
    ]
    return [checkpoints[index] for index in pareto_front(points) if index < len(checkpoints)]


def winner_bytes(cell: CellResult) -> int:
    """Bytes of the packed model with the winner's adapter; 0 if there is no winner."""
    return int(cell.best.user_attrs["bytes"]) if cell.best else 0
