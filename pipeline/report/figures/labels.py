"""The words of pictures: what is measured, ranks or budgets, and names that fit into legends and axes."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TypeVar

from pipeline.cell import Cell
from pipeline.report.blocks import Column
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.wording import NOTHING, cell_name, init_name, rank_value, readable_bytes

T = TypeVar("T")

LONGEST = 32
"""The most characters of a name in a legend or at an axis: the width of a phone."""


def measured(results: Sequence[CombinationResult]) -> str:
    """``accuracy``, ``agreement``, or both if the studies differ."""
    return _either(result.metric for result in results)


def rank_word(results: Sequence[CombinationResult]) -> str:
    """``rank``, ``budget`` if an allocation spreads it over the layers, or both if the studies differ."""
    ranked = [result for result in results if any(cell.cell.rank for cell in result.cells)]
    return _either("budget" if result.budget_unit else "rank" for result in ranked) or "rank"


def words(results: Sequence[CombinationResult]) -> dict[str, str]:
    """The words for ``{accuracy}``, ``{rank}``, ``{Accuracy}`` and ``{Rank}`` in the texts of a picture."""
    lower = {"accuracy": measured(results), "rank": rank_word(results)}
    return lower | {name.capitalize(): word.capitalize() for name, word in lower.items()}


def _either(names: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(names))


def rank_tick(result: CombinationResult, rank: int) -> str:
    """A rank or a budget as an axis writes it; the title of the axis gives the unit."""
    return rank_value(rank, result.budget_unit, short=True)


def cell_label(result: CombinationResult, cell: Cell) -> str:
    """``rank 8, svd`` or ``budget 20 kB, svd``; plain text."""
    return cell_name(cell.rank, cell.init, result.budget_unit)


def cell_columns(heading: str, cell_of: Callable[[T], tuple[CombinationResult, int, str]]) -> dict[str, Column[T]]:
    """The columns of a table that name the cell of a row, by its combination, rank and init."""
    return {
        "combination": Column(lambda row: cell_of(row)[0].label, "text"),
        heading: Column(lambda row: rank_value(cell_of(row)[1], cell_of(row)[0].budget_unit)),
        "init": Column(lambda row: init_name(cell_of(row)[2], NOTHING), "text"),
    }


def cut(text: str, longest: int = LONGEST) -> str:
    """The name, shortened in its middle if it is too long."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[head + 1 - longest :]}"


def short(text: str, longest: int = LONGEST) -> str:
    """The name shortened and escaped: plotly reads tags in most texts."""
    return escape(cut(text, longest))


def told_apart(names: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Dotted names of layers, shortened to fit beside an axis; in full if they would no longer differ.

    ``encoder.layer.10.attention.output.dense`` -> ``enco….layer.10.atte….outp….dense``
    """
    fitted = []
    for name in names:
        # The longest words are shortened first: the numbers in a layer's name say most.
        parts, mosts = name.split("."), range(longest, 2, -1)
        texts = (".".join(one if len(one) <= most else f"{one[: most - 1]}…" for one in parts) for most in mosts)
        fitted.append(next((text for text in texts if len(text) <= longest), cut(name, longest)))
    return [escape(name) for name in (fitted if len(set(fitted)) == len(set(names)) else names)]


def hover(result: CombinationResult, cell: CellResult, *lines: str) -> str:
    """The text that appears when the reader points at a cell's winner."""
    winner = cell.winner
    params = ", ".join(
        f"{key} {f'{value:.3g}' if isinstance(value, float) else value}"
        for key, value in winner.params.items()
        if key not in ("rank", "init")
    )
    size = f"{readable_bytes(winner.user_attrs['bytes'])}, {winner.user_attrs['ratio']:.2f} times smaller"
    head = f"{result.label}, {cell_label(result, cell.cell)}, trial {winner.number}"
    return "<br>".join(map(escape, filter(None, (head, *lines, params, size))))
