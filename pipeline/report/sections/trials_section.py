"""How the trials ended, and why some of them failed."""

from collections import Counter
from collections.abc import Sequence

from pipeline.report.blocks import Block, Bullets, Column, Folded, Paragraph, Section, Table, table
from pipeline.report.figures.labels import cell_label, rank_word
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.store.tally import STATES
from pipeline.wording import NOTHING, counted, init_name, rank_value

_Cell = tuple[CombinationResult, CellResult]


def trials_section(results: Sequence[CombinationResult]) -> Section:
    """Trials by state, the reasons of failures, and the cells that ended short or have not begun."""
    cells = [(result, cell) for result in results for cell in result.cells]
    reasons = [
        (own, reason, count)
        for own in cells
        for reason, count in [*own[1].tally.reasons.items(), *own[1].tally.interrupted.items()]
    ]
    seeds = [(own, seed, reason) for own in cells for seed, reason in own[1].failed_seeds.items()]
    return Section(
        "trials",
        "Failures",
        [
            Paragraph(_ended(cells)),
            *([_reasons(reasons)] if reasons else []),
            *([_failed_seeds(seeds)] if seeds else []),
            *_listed("Cells that ended short of their budget, because as many trials failed:", cells, short=True),
            *_listed("Cells in which no trial has begun:", cells, short=False),
            Folded("Trials of each cell by state", [_states(cells, rank_word(results))]),
        ],
    )


def _ended(cells: Sequence[_Cell]) -> str:
    states = sum((cell.tally.states for _, cell in cells), Counter[str]())
    interrupted = sum(sum(cell.tally.interrupted.values()) for _, cell in cells)
    said = (
        f"{counted(states['complete'], 'trial')} ran to the end, and {states['pruned']:,} were pruned, because their "
        f"first epochs were worse than those of others. "
    )
    failed = f"{counted(states['fail'], 'trial')} failed" if states["fail"] else "No trial failed"
    stopped = f", {interrupted:,} were interrupted with their run and tried again" if interrupted else ""
    return f"{said}{failed}{stopped}."


def _reasons(reasons: Sequence[tuple[_Cell, str, int]]) -> Table:
    return table(
        "Why trials failed or were interrupted",
        {
            "cell": Column("text", lambda row: _named(row[0])),
            "trials": Column("number", lambda row: str(row[2])),
            "reason": Column("long", lambda row: row[1]),
        },
        reasons,
    )


def _failed_seeds(seeds: Sequence[tuple[_Cell, int, str]]) -> Table:
    return table(
        "Why training of a winner under another seed failed; the mean is over the other seeds",
        {
            "cell": Column("text", lambda row: _named(row[0])),
            "seed": Column("number", lambda row: str(row[1])),
            "reason": Column("long", lambda row: row[2]),
        },
        seeds,
    )


def _listed(title: str, cells: Sequence[_Cell], *, short: bool) -> list[Block]:
    found = [_named(own) for own in cells if (own[1].exhausted if short else not own[1].begun)]
    return [Paragraph(title), Bullets(found)] if found else []


def _named(own: _Cell) -> str:
    result, cell = own
    name = cell_label(result, cell.cell)
    return f"{result.label}, {name}" if cell.cell.rank else result.label


def _states(cells: Sequence[_Cell], heading: str) -> Table:
    counts = {
        state: Column[_Cell]("number", lambda own, state=state: str(own[1].tally.states[state]))  # type: ignore[misc]
        for state in STATES
    }
    return table(
        "Pruned trials count in the budget, failed ones do not",
        {
            "combination": Column("text", lambda own: own[0].label),
            heading: Column("number", lambda own: rank_value(own[1].cell.rank, own[0].budget_unit)),
            "init": Column("text", lambda own: init_name(own[1].cell.init, NOTHING)),
            **counts,
            "budget": Column("number", lambda own: str(own[1].budget)),
        },
        cells,
    )
