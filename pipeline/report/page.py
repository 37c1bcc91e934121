"""The report of a study: one HTML page that needs no network, and its tables beside it."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pipeline.paths import write_whole
from pipeline.report.figures.contract import NotAskedFor, NothingToDraw, pictures
from pipeline.report.markup import figure, heading, page, paragraph
from pipeline.report.rows import EpochRow, EvaluationRow, TrialRow
from pipeline.report.sections import (
    evaluation_section,
    reference_section,
    state_section,
    task_section,
    version_section,
)
from pipeline.report.tables import epoch_rows, evaluation_rows, trial_rows, write_csv
from pipeline.search.results import CombinationResult


def write_report(results: Sequence[CombinationResult], folder: Path) -> Path:
    """Write ``index.html``, ``evaluation.csv``, ``trials.csv`` and ``epochs.csv``; the study may still be running.

    Args:
        results: All combinations of one study, at least one.
        folder: Where to; what is there of an earlier report is replaced.

    Returns:
        The page.
    """
    write_csv(folder / "evaluation.csv", EvaluationRow, evaluation_rows(results))
    write_csv(folder / "trials.csv", TrialRow, trial_rows(results))
    write_csv(folder / "epochs.csv", EpochRow, epoch_rows(results))
    text = render(results)

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_whole(folder / "index.html", write)
    return folder / "index.html"


def render(results: Sequence[CombinationResult]) -> str:
    """The page as HTML."""
    study = str(results[0].facts.get("study", ""))
    return page(
        f"{study}: accuracy won back",
        [
            f"<h1>{escape(study)}</h1>",
            f'<p class="quiet">{escape(_progress(results))} Tables: <a href="evaluation.csv">evaluation.csv</a>, '
            '<a href="trials.csv">trials.csv</a>, <a href="epochs.csv">epochs.csv</a>.</p>',
            *task_section(results),
            *reference_section(results),
            *evaluation_section(results),
            *_picture_section(results),
            *state_section(results),
            *version_section(results),
        ],
    )


def _progress(results: Sequence[CombinationResult]) -> str:
    cells = [cell for result in results for cell in result.cells]
    done = sum(cell.states["complete"] + cell.states["pruned"] for cell in cells)
    said = f"{done} of {sum(cell.budget for cell in cells)} trials of {len(cells)} cells have ended."
    if all(cell.test for cell in cells if cell.best) and any(cell.best for cell in cells):
        return f"{said} Every winner is tested."
    return f"{said} Not every winner is tested yet."


def _picture_section(results: Sequence[CombinationResult]) -> list[str]:
    parts, drawn = [], 0
    for picture in pictures():
        try:
            shown = figure(picture.draw(results), picture.name, include_plotly=drawn == 0)
            drawn += 1
        except NotAskedFor:
            continue
        except NothingToDraw as reason:
            shown = paragraph(f"No picture: {reason}.")
        parts += [heading(picture.title), paragraph(picture.says), shown]
    return parts
