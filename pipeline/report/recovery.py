"""The share of what compression lost that an adapter won back."""

from pipeline.search.results import CellResult, CombinationResult


def recovery(original: float | None, compressed: float | None, recovered: float | None) -> float | None:
    """``(recovered - compressed) / (original - compressed)``: 0 where nothing was won back, 1 where all of it was.

    Returns:
        None where a number is missing, or compression lost nothing that could be won back.
    """
    if original is None or compressed is None or recovered is None or original <= compressed:
        return None
    return (recovered - compressed) / (original - compressed)


def cell_recovery(result: CombinationResult, cell: CellResult, part: str) -> float | None:
    """That of a cell's winner, on ``val`` or ``test``."""
    if part not in result.baseline or part not in result.compressed or cell.best is None:
        return None
    won = (cell.test.accuracy if cell.test else None) if part == "test" else cell.best.value
    return recovery(result.baseline[part].accuracy, result.compressed[part].accuracy, won)
