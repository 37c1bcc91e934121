"""How the trials ended, and why some of them failed."""

from collections.abc import Sequence

from pipeline.report.blocks import Block, Bullets, Column, Folded, Paragraph, Section, table
from pipeline.report.figures.labels import cell_columns, cell_label, rank_word
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.progress import total
from pipeline.store.tally import STATES, Tally
from pipeline.wording import counted

_Cell = tuple[CombinationResult, CellResult]


def trials_section(results: Sequence[CombinationResult]) -> Section:
    """Trials by state, the reasons of failures, and the cells that ended short or have not begun."""
    cells = [(result, cell) for result in results for cell in result.cells]
    reasons = [
        (_named(pair), count, reason)
        for pair in cells
        for reasons in (pair[1].tally.reasons, pair[1].tally.interrupted)
        for reason, count in reasons.items()
    ]
    seeds = [(_named(pair), seed, reason) for pair in cells for seed, reason in pair[1].failed_seeds.items()]
    columns = {
        **cell_columns(rank_word(results), lambda pair: (pair[0], pair[1].cell.rank, pair[1].cell.init)),
        **{state: Column[_Cell](lambda pair, s=state: str(pair[1].tally.states[s])) for state in STATES},  # type: ignore[misc]
        "budget": Column(lambda pair: str(pair[1].budget)),
    }
    return Section(
        "trials",
        "Failures",
        [
            Paragraph(_ended(total(cell.tally for _, cell in cells))),
            *_reasons("Why trials failed or were interrupted", "trials", reasons),
            *_reasons(
                "Why training of a winner under another seed failed; the mean is over the other seeds", "seed", seeds
            ),
            *_listed(
                "Cells that ended short of their budget, because as many trials failed:",
                [pair for pair in cells if pair[1].exhausted],
            ),
            *_listed("Cells in which no trial has begun:", [pair for pair in cells if not pair[1].begun]),
            Folded(
                "Trials of each cell by state",
                [table("Pruned trials count in the budget, failed ones do not", columns, cells)],
            ),
        ],
    )


def _ended(tally: Tally) -> str:
    states, interrupted = tally.states, tally.interrupted.total()
    said = (
        f"{counted(states['complete'], 'trial')} ran to the end, and {states['pruned']:,} were pruned, because their "
        f"first epochs were worse than those of others. "
    )
    failed = f"{counted(states['fail'], 'trial')} failed" if states["fail"] else "No trial failed"
    stopped = f", {interrupted:,} were interrupted with their run and tried again" if interrupted else ""
    return f"{said}{failed}{stopped}."


def _reasons(caption: str, heading: str, rows: Sequence[tuple[str, int, str]]) -> list[Block]:
    """Cells with a number and a reason each; nothing if there are none."""
    columns = {
        "cell": Column[tuple[str, int, str]](lambda row: row[0], "text"),
        heading: Column(lambda row: str(row[1])),
        "reason": Column(lambda row: row[2], "long"),
    }
    return [table(caption, columns, rows)] if rows else []


def _listed(title: str, cells: Sequence[_Cell]) -> list[Block]:
    return [Paragraph(title), Bullets([_named(pair) for pair in cells])] if cells else []


def _named(pair: _Cell) -> str:
    result, cell = pair
    return f"{result.label}, {cell_label(result, cell.cell)}" if cell.cell.rank else result.label
