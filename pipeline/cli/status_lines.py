"""The output of ``status`` as text."""

from collections import Counter
from typing import Any

from rich.text import Text

from pipeline.results.progress import Progress, progress_of
from pipeline.terminal.progress_lines import summary_text
from pipeline.terminal.text import aligned
from pipeline.wording import counted

INDENT = "  "


def status_lines(table: list[dict[str, Any]]) -> list[Text]:
    """Per combination its cells and the reasons of failures, then the totals."""
    lines: list[Text] = []
    for combination in table:
        progress = progress_of(combination)
        lines += [Text().append(combination["combination"], style="bold").append(f": {summary_text(progress)}")]
        lines += [Text(INDENT).append(line) for line in _cells(combination, progress)]
        lines += [Text(INDENT).append(line) for line in _failures(combination["cells"])]
        lines.append(Text())
    return [*lines, _totals(table)]


def _cells(combination: dict[str, Any], progress: Progress) -> list[Text]:
    names = ["trials", "pruned", "failed", "running", f"best {progress.metric}", "trial", "tested"]
    ranked = any(cell["rank"] for cell in combination["cells"])
    header = [Text(name, style="dim") for name in ([progress.unit or "rank", "init"] if ranked else []) + names]
    rows = []
    for cell in combination["cells"]:
        is_best = cell["best"] is not None and cell["best"] == progress.best
        own = _row(cell, "bold green" if is_best else "")
        rows.append(own if ranked else own[2:])
    left = (1, len(header) - 1) if ranked else (len(header) - 1,)
    return aligned([header, *rows], left)


def _row(cell: dict[str, Any], style: str) -> list[Text]:
    states = cell["states"]
    done = states["complete"] + states["pruned"]
    best = "-" if cell["best"] is None else f"{cell['best']:.4f}"
    tested = Text("yes" if cell["tested"] else "-")
    if cell["exhausted"]:
        tested.append("  exhausted", style="red")
    return [
        Text(str(cell["rank"]), style=style),
        Text(cell["init"], style=style),
        Text(f"{done}/{cell['budget']}"),
        Text(str(states["pruned"])),
        Text(str(states["fail"]), style="red" if states["fail"] else ""),
        Text(str(states["running"])),
        Text(best, style=style),
        Text("-" if cell["trial"] is None else str(cell["trial"])),
        tested,
    ]


def _failures(cells: list[dict[str, Any]]) -> list[Text]:
    """The reasons for which trials failed or were interrupted, with their counts."""
    reasons, interrupted = Counter[str](), Counter[str]()
    for cell in cells:
        reasons.update(cell["reasons"] or {})
        interrupted.update(cell["interrupted"] or {})
    lines = [Text(f"{count} failed: {reason}", style="red") for reason, count in reasons.most_common()]
    lines += [Text(f"{count} interrupted, to be tried again: {why}") for why, count in interrupted.most_common()]
    if any(cell["reasons"] is None for cell in cells):
        lines.append(Text("there are more reasons: status --json lists all of them", style="red"))
    return lines


def _totals(table: list[dict[str, Any]]) -> Text:
    parts = [progress_of(combination) for combination in table]
    cells = [cell for combination in table for cell in combination["cells"]]
    done, budget = sum(part.done for part in parts), sum(part.budget for part in parts)
    counts = {
        "pruned": sum(part.pruned for part in parts),
        "failed": sum(part.failed for part in parts),
        "running": sum(part.running for part in parts),
        "exhausted": sum(cell["exhausted"] for cell in cells),
    }
    ended = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    tested = sum(cell["tested"] for cell in cells)
    return Text(
        f"{counted(len(table), 'combination')}, {counted(len(cells), 'cell')}: {done}/{budget} trials"
        + (f", {ended}" if ended else "")
        + f"; {tested} of {counted(len(cells), 'winner')} tested"
    )
