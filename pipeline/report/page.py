"""The report of studies: one HTML page that needs no network, and its tables beside it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from pipeline.paths import write_whole
from pipeline.report.figures.contract import Figure, NothingToDraw
from pipeline.report.figures.labels import measured
from pipeline.report.markup import contents, page
from pipeline.report.numbers_text import listed
from pipeline.report.sections.glossary_section import glossary_section
from pipeline.report.sections.layers_section import layer_tables
from pipeline.report.sections.pictures_section import Drawn, draw, pictures_section
from pipeline.report.sections.reproduction_section import reproduction_section
from pipeline.report.sections.results_section import results_section
from pipeline.report.sections.state_section import state
from pipeline.report.sections.summary_section import summary
from pipeline.report.sections.task_section import task_section
from pipeline.report.sections.trials_section import trials_section
from pipeline.results.stored_results import CombinationResult
from pipeline.results.table_rows import EpochRow, EvaluationRow, TrialRow
from pipeline.results.tables import epoch_rows, evaluation_rows, trial_rows, write_csv

Rows = Callable[[Sequence[CombinationResult]], Iterable[Mapping[str, Any]]]
TABLES: dict[str, tuple[type, Rows, str]] = {
    "evaluation.csv": (EvaluationRow, evaluation_rows, "every cell's winner beside its references"),
    "trials.csv": (TrialRow, trial_rows, "every trial"),
    "epochs.csv": (EpochRow, epoch_rows, "the epochs of each cell's winner"),
}


def write_report(
    results: Sequence[CombinationResult], folder: Path, made: datetime | None = None
) -> tuple[Path, dict[str, Figure]]:
    """Write ``index.html``, ``evaluation.csv``, ``trials.csv`` and ``epochs.csv``; the studies may still be running.

    Args:
        results: All combinations of one study or of several, at least one.
        folder: Where to; what is there of an earlier report is replaced.
        made: When; the page says so.

    Returns:
        The page, and its main pictures by name.
    """
    for name, (kind, rows, _) in TABLES.items():
        write_csv(folder / name, kind, rows(results))
    drawn = draw(results)
    text = render(results, drawn, made)

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_whole(folder / "index.html", write)
    figures = {one.name: shown for one, shown in drawn.items() if one.main and not isinstance(shown, NothingToDraw)}
    return folder / "index.html", figures


def render(results: Sequence[CombinationResult], drawn: Drawn, made: datetime | None = None) -> str:
    """The page as HTML; the same of the same, but for the time that it is told."""
    title = f"{listed(dict.fromkeys(result.of for result in results))}: {measured(results)} won back"
    sections = [
        results_section(results),
        task_section(results),
        glossary_section(results),
        pictures_section(drawn, {"layer_sizes": layer_tables(results)}),
        trials_section(results),
        reproduction_section(results),
    ]
    return page(
        title,
        [
            f"<header><h1>{escape(title)}</h1>",
            *state(results),
            *summary(results),
            contents(sections),
            "</header>",
            "<main>",
            *(section.html() for section in sections),
            "</main>",
            _footer(made),
        ],
        drawn=any(not isinstance(one, NothingToDraw) for one in drawn.values()),
    )


def _footer(made: datetime | None) -> str:
    links = ", ".join(f'<a href="{name}">{name}</a> ({what})' for name, (_, _, what) in TABLES.items())
    when = f" Made on {made:%Y-%m-%d at %H:%M %Z}." if made else ""
    return f"<footer><p>The same numbers as tables: {links}. This page needs no network.{when}</p></footer>"
