"""Made-up views of a search."""

from typing import Any

from pipeline.results.progress import CellProgress, Progress
from pipeline.terminal.live_table import View


def cell(rank: int = 2, init: str = "svd", budget: int = 9, **more: Any) -> CellProgress:
    return CellProgress(rank, init, budget, **more)


def progress(*cells: CellProgress, epochs: int = 9, **more: Any) -> Progress:
    return Progress(cells or (cell(),), epochs, **more)


def view(own: Progress | None = None, **changes: Any) -> View:
    facts: dict[str, Any] = {
        "study": "digits", "parts": {}, "current": "int1-lora", "passed": 83.0, "rate": 0.8, **changes,
    }  # fmt: skip
    facts["parts"] = {**facts["parts"], "int1-lora": own or progress()}
    return View(**facts)


MANY = progress(
    *(cell(rank, f"init{number}", complete=9, best=rank / 1000) for rank in range(1, 30) for number in range(2)),
    cell(40, "svd", running=3, epoch=2),
    cell(41, "svd"),
    cell(1000, "paper", complete=2, pruned=3, running=3, epoch=4, best=0.98765),
)
