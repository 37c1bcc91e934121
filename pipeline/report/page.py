"""The report of studies: one HTML page that needs no network, and its tables as CSV files beside it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.paths import write_text
from pipeline.report.blocks import Block, Drawing, Heading, Paragraph, Section
from pipeline.report.document import document
from pipeline.report.figures.contract import Figure, NotAskedFor, NothingToDraw, Picture, pictures
from pipeline.report.figures.labels import measured
from pipeline.report.sections.results_section import glossary_section, results_section
from pipeline.report.sections.study_section import reproduction_section, task_section
from pipeline.report.sections.summary_section import state, summary
from pipeline.report.sections.trials_section import trials_section
from pipeline.results.combination_result import CombinationResult
from pipeline.results.tables import (
    EpochRow,
    EvaluationRow,
    TrialRow,
    epoch_rows,
    evaluation_rows,
    trial_rows,
    write_csv,
)
from pipeline.results.trained_layers import LayerRow, layer_rows
from pipeline.wording import listed

Drawn = Mapping[Picture, Figure | NothingToDraw]
Rows = Callable[[Sequence[CombinationResult]], Iterable[Mapping[str, Any]]]
TABLES: dict[str, tuple[type, Rows, str]] = {
    "evaluation.csv": (EvaluationRow, evaluation_rows, "every cell's winner beside its references"),
    "trials.csv": (TrialRow, trial_rows, "every trial"),
    "epochs.csv": (EpochRow, epoch_rows, "the epochs of each cell's winner"),
    "layers.csv": (LayerRow, layer_rows, "the compressed layers of each cell's winner"),
}


@dataclass(frozen=True)
class Report:
    """The HTML file and the CSV files of a report, and its main pictures by name, as plotly figures."""

    page: Path
    tables: list[Path]
    figures: dict[str, Figure]


def write_report(results: Sequence[CombinationResult], folder: Path, made: datetime | None = None) -> Report:
    """Write ``index.html`` and the tables ``TABLES`` as CSV files; the studies may still be running.

    The files of an earlier report in the folder are replaced. The page shows ``made`` as its date, if it is given.
    """
    for name, (kind, rows, _) in TABLES.items():
        write_csv(folder / name, kind, rows(results))
    drawn = draw(results)
    text = render(results, drawn, made)
    write_text(folder / "index.html", text)
    figures = {one.name: shown for one, shown in drawn.items() if one.main and not isinstance(shown, NothingToDraw)}
    return Report(folder / "index.html", [folder / name for name in TABLES], figures)


def draw(results: Sequence[CombinationResult]) -> Drawn:
    """Every picture as a figure, or the reason why there is none. Pictures that no study asks for are left out."""
    drawn: dict[Picture, Figure | NothingToDraw] = {}
    for picture in pictures():
        try:
            drawn[picture] = picture.draw(results)
        except NotAskedFor:
            continue
        except NothingToDraw as reason:
            drawn[picture] = reason
    return drawn


def render(results: Sequence[CombinationResult], drawn: Drawn, made: datetime | None = None) -> str:
    """The page as HTML. Equal results give equal pages, apart from the date."""
    return document(
        f"{listed(dict.fromkeys(result.of for result in results))}: {measured(results)} after compression",
        template="report.html",
        drawn=any(not isinstance(one, NothingToDraw) for one in drawn.values()),
        lead=[*state(results), *summary(results)],
        sections=[
            results_section(results),
            task_section(results),
            glossary_section(results),
            _pictures_section(results, drawn),
            trials_section(results),
            reproduction_section(results),
        ],
        tables={name: what for name, (_, _, what) in TABLES.items()},
        made=made,
    )


def _pictures_section(results: Sequence[CombinationResult], drawn: Drawn) -> Section:
    """All pictures, and what each shows below itself."""
    blocks: list[Block] = []
    within: dict[str, str] = {}
    for picture, shown in drawn.items():
        title, reading = picture.worded(results)
        if isinstance(shown, NothingToDraw):
            blocks += [Heading(title), Paragraph(f"No picture: {shown}.", "quiet")]
        else:
            blocks.append(Drawing(picture.name, title, reading, shown))
            within[picture.name] = title
        blocks += picture.below(results)
    return Section("pictures", "Pictures", blocks, within)
