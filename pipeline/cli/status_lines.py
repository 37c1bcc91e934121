"""The output of ``status`` as text."""

from typing import Any

from rich.text import Text

from pipeline.results.progress import Progress, progress_of, total
from pipeline.store.tally import Tally
from pipeline.terminal.progress_lines import cell_row, cell_table, counts_text, summary_text
from pipeline.wording import as_written, counted

INDENT = "  "
COLUMNS = ("rank", "init", "trials", "pruned", "failed", "running", "best", "trial", "tested")


def status_lines(table: list[dict[str, Any]]) -> list[Text]:
    """Per combination its cells and the reasons of failures, then the totals."""
    lines: list[Text] = []
    parts = [progress_of(combination) for combination in table]
    for combination, progress in zip(table, parts, strict=True):
        cells = combination["cells"]
        lines.append(Text().append(combination["combination"], style="bold").append(f": {summary_text(progress)}"))
        lines += [Text(INDENT + line) for line in [*_auto(combination), *_largest_class(combination)]]
        lines += [Text(INDENT).append(line) for line in [*_table(cells, progress), *_failures(cells)]]
        lines.append(Text())
    return [*lines, _totals(table, parts)]


def _auto(combination: dict[str, Any]) -> list[str]:
    """What was chosen by measuring before the first trial, if anything was."""
    chosen = combination.get("auto")
    return [f"auto: {as_written(chosen)}"] if chosen else []


def _largest_class(combination: dict[str, Any]) -> list[str]:
    """What always answering the largest class would reach, if the classes are uneven."""
    if not combination["uneven"]:
        return []
    shares = ", ".join(f"{share:.4f} on {part}" for part, share in combination["largest_class"].items())
    return [f"always answering the largest class: {combination['metric']} {shares}"]


def _table(cells: list[dict[str, Any]], progress: Progress) -> list[Text]:
    rows = [cell_row(cell, progress) for cell in progress.cells]
    for row, cell in zip(rows, cells, strict=True):
        row["trial"] = Text("-" if cell["trial"] is None else str(cell["trial"]))
        row["tested"] = Text("yes" if cell["tested"] else "-")
        if cell["exhausted"]:
            row["tested"].append("  exhausted", style="red")
    return cell_table(COLUMNS, rows, progress)


def _failures(cells: list[dict[str, Any]]) -> list[Text]:
    """The reasons for which trials failed or were interrupted, with their counts."""
    tally = total(map(Tally.from_table, cells))
    lines = [Text(f"{count} failed: {reason}", style="red") for reason, count in tally.reasons.most_common()]
    lines += [Text(f"{count} interrupted, to be tried again: {why}") for why, count in tally.interrupted.most_common()]
    if any(cell["reasons"] is None for cell in cells):
        lines.append(Text("there are more reasons: status --json lists all of them", style="red"))
    return lines


def _totals(table: list[dict[str, Any]], parts: list[Progress]) -> Text:
    cells = [cell for combination in table for cell in combination["cells"]]
    whole = Progress(tuple(cell for progress in parts for cell in progress.cells), epochs=1)
    exhausted, tested = sum(cell["exhausted"] for cell in cells), sum(cell["tested"] for cell in cells)
    ended = counts_text(pruned=whole.pruned, failed=whole.failed, running=whole.running, exhausted=exhausted)
    trials = ", ".join([f"{whole.done}/{whole.budget} trials", *ended])
    counts = f"{counted(len(table), 'combination')}, {counted(len(cells), 'cell')}"
    return Text(f"{counts}: {trials}; {tested} of {counted(len(cells), 'winner')} tested")
