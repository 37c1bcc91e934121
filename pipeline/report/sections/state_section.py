"""The progress of unfinished studies, at the head of the page."""

from collections.abc import Sequence

from pipeline.report.blocks import Block, Unfinished
from pipeline.report.figures.labels import cell_label
from pipeline.results.combination_result import CombinationResult, by_study
from pipeline.results.progress import standing
from pipeline.wording import NO_BREAK, counted, percent


def state(results: Sequence[CombinationResult]) -> list[Block]:
    """A box per unfinished study: how far it is, and which cells have not begun.

    The page does not reload itself, because its file changes only when the report is written again.
    """
    studies = by_study(results)
    again = f"This page does not update itself; to write it again: restora report {' '.join(studies)}"
    return [box for study, members in studies.items() if (box := _box(study, members, again))]


def _box(study: str, results: Sequence[CombinationResult], again: str) -> Unfinished | None:
    now = standing(results)
    if now.finished:
        return None
    running = f", {now.running:,} of the others begun" if now.running else ""
    latest = f"; the last one ended on {now.latest:%Y-%m-%d at %H:%M}" if now.latest else ""
    share = f"{percent(now.done / now.budget, 0)}{NO_BREAK}%"
    said = (
        f"{study} is not finished: {now.done:,} of {counted(now.budget, 'trial')} ({share}) have ended"
        f"{running}{latest}."
        if now.done < now.budget
        else f"The search of {study} has ended, and not every winner is tested yet."
    )
    waiting = _waiting(results)
    return Unfinished(f"{said} {again}", now.done, now.budget, f"Not begun: {waiting}." if waiting else "")


def _waiting(results: Sequence[CombinationResult]) -> str:
    said = []
    for result in results:
        cells = [cell_label(result, cell.cell) for cell in result.cells if not cell.begun]
        if len(cells) == len(result.cells):
            said.append(result.label)
        elif cells:
            said.append(f"{' and '.join(cells)} of {result.label}")
    return "; ".join(said)
