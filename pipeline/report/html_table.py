"""A table of the page."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """What a column says of each row.

    Args:
        kind: ``number``, ``text``, or ``long``, which is broken anywhere.
        show: The text of its cell.
    """

    kind: str
    show: Callable[[T], str]


def table(
    caption: str,
    columns: Mapping[str, Column[T]],
    rows: Iterable[T],
    *,
    best: Callable[[T], bool] = lambda row: False,
    cards: bool = False,
) -> str:
    """A table in a box that scrolls where it is wider than the page. Columns without any text are left out.

    Args:
        caption: What it shows.
        columns: By heading; the first names the row.
        rows: What is shown.
        best: Which rows stand out.
        cards: Whether a narrow page shows a card for each row instead.
    """
    rows = list(rows)
    cells = {name: [column.show(row) for row in rows] for name, column in columns.items()}
    shown = {name: columns[name].kind for name, texts in cells.items() if any(texts) or name == next(iter(columns))}
    lines = [
        _line({name: cells[name][place] for name in shown}, shown, stands_out=best(row))
        for place, row in enumerate(rows)
    ]
    head = "".join(
        f'<th scope="col" role="columnheader" class="{kind}">{escape(name)}</th>' for name, kind in shown.items()
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table role="table" class="{"cards" if cards else ""}"><caption>{escape(caption)}</caption>'
        f'<thead><tr role="row">{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _line(cells: Mapping[str, str], kinds: Mapping[str, str], *, stands_out: bool) -> str:
    (_, first), *others = cells.items()
    naming = f'<th scope="row" role="rowheader" class="{kinds[next(iter(cells))]}">{escape(first)}</th>'
    rest = "".join(
        f'<td role="cell" class="{kinds[name]}" data-of="{escape(name)}">{escape(text)}</td>' for name, text in others
    )
    return f'<tr role="row" class="{"best" if stands_out else ""}">{naming}{rest}</tr>'


def facts(caption: str, said: Mapping[str, Sequence[str] | str], of: Sequence[str] = ("",)) -> str:
    """A table of named facts: a row a fact, a column for each of ``of``; facts without any text are left out.

    Args:
        caption: What it shows.
        said: By name, a text for each column, or one for all.
        of: Headings of the columns.
    """
    rows = {name: [texts] * len(of) if isinstance(texts, str) else texts for name, texts in said.items()}
    columns: dict[str, Column[tuple[str, Sequence[str]]]] = {"fact": Column("text", lambda row: row[0])}
    for place, heading in enumerate(of):
        columns[heading or "value"] = Column("long", lambda row, place=place: row[1][place])  # type: ignore[misc]
    return table(caption, columns, [(name, texts) for name, texts in rows.items() if any(texts)])
