"""What a reader of an unfinished study must know first."""

from collections.abc import Sequence
from html import escape

from pipeline.report.markup import paragraph
from pipeline.report.progress import begun, progress
from pipeline.report.words import counted
from pipeline.search.results import CombinationResult


def state(results: Sequence[CombinationResult]) -> list[str]:
    """That the study goes on, how far it is, and what has not begun; nothing where all is done.

    The page does not reload itself: its file changes only when it is made again, and a reader would lose the place.
    """
    now = progress(results)
    if now.finished:
        return []
    running = f", {counted(now.running, 'trial')} had begun and not ended" if now.running else ""
    latest = f"; the last one ended on {now.latest:%Y-%m-%d at %H:%M}" if now.latest else ""
    again = " ".join(dict.fromkeys(result.of for result in results))
    said = (
        f"Not finished: {now.done:,} of {counted(now.budget, 'trial')} ({now.done / now.budget:.0%}) have ended"
        f"{running}{latest}. "
        if now.done < now.budget
        else "The search has ended, and not every winner is tested yet. "
    )
    waiting = _waiting(results)
    return [
        '<div class="state" role="note">'
        + paragraph(f"{said}This page stays as it is; make it again to see more: restora report {again}")
        + f'<progress max="{now.budget}" value="{now.done}" aria-label="{escape("trials that have ended")}"></progress>'
        + (paragraph(f"Not begun: {waiting}.", "quiet") if waiting else "")
        + "</div>"
    ]


def _waiting(results: Sequence[CombinationResult]) -> str:
    said = []
    for result in results:
        cells = [str(cell.cell) for cell in result.cells if not begun(cell)]
        if len(cells) == len(result.cells):
            said.append(result.label)
        elif cells:
            said.append(f"{', '.join(cells)} of {result.label}")
    return "; ".join(said)
