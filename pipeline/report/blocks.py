"""The parts of the page as plain data; ``templates/blocks.html`` turns them into HTML and escapes every text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Block:
    """A part of the page. The macro of the template that shows it has the name of its class."""

    @property
    def macro(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Section:
    """A chapter of the page; the contents link to its anchor, and to those of ``within``, parts by their anchors."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    within: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Heading(Block):
    text: str


@dataclass(frozen=True)
class Paragraph(Block):
    """A paragraph; ``style`` is ``lead`` (larger), ``quiet`` (grey) or empty."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Bullets(Block):
    lines: Sequence[str]


@dataclass(frozen=True)
class Definitions(Block):
    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Folded(Block):
    """Blocks that are hidden until the reader clicks the title; a printed page shows them."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Verbatim(Block):
    """Text whose line breaks and spaces are shown as they are."""

    text: str


@dataclass(frozen=True)
class Unfinished(Block):
    """The box about a study that still runs or was stopped; ``waiting`` says which cells have not begun."""

    text: str
    done: int
    budget: int
    waiting: str


@dataclass(frozen=True)
class Drawing(Block):
    """A plotly figure, from ``style.finish``, below its heading; ``name`` is its anchor, ``says`` how to read it."""

    name: str
    title: str
    says: str
    figure: Any

    @property
    def json(self) -> str:
        return str(self.figure.to_json())

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.figure.layout.height)

    @property
    def min_width(self) -> int:
        """Pixels; a narrower page scrolls the figure."""
        return int((self.figure.layout.meta or {}).get("min_width", 0))


@dataclass(frozen=True)
class Row:
    """The texts of one row of a table, one per column; ``best`` rows are shaded."""

    texts: Sequence[str]
    best: bool = False


@dataclass(frozen=True)
class Table(Block):
    """A table that scrolls sideways if it is wider than the page, which shows each row as a card if ``cards``.

    ``columns`` has the kind of each column by its heading; the first column names the row.
    """

    caption: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    cards: bool = False


@dataclass(frozen=True)
class Column(Generic[T]):
    """The text of each row in a column, which is a ``number`` (aligned right), ``text``, or ``long`` (may break)."""

    show: Callable[[T], str]
    kind: str = "number"


def table(
    caption: str,
    columns: Mapping[str, Column[T]],
    rows: Iterable[T],
    *,
    best: Callable[[T], bool] = lambda row: False,
    cards: bool = False,
) -> Table:
    """A table of some objects, one per row. Columns in which every text is empty are left out, except the first."""
    rows = list(rows)
    texts = {name: [column.show(row) for row in rows] for name, column in columns.items()}
    shown = [name for index, name in enumerate(columns) if index == 0 or any(texts[name])]
    return Table(
        caption,
        {name: columns[name].kind for name in shown},
        [Row([texts[name][index] for name in shown], best(row)) for index, row in enumerate(rows)],
        cards,
    )


def facts(caption: str, columns: Mapping[str, Mapping[str, str]]) -> Table:
    """A table of named facts, one per row, with a column per heading. Facts without any text are left out."""
    names = dict.fromkeys(name for told in columns.values() for name in told)
    rows = [Row([name, *(told.get(name, "") for told in columns.values())]) for name in names]
    kinds = {"fact": "text", **dict.fromkeys(columns, "long")}
    return Table(caption, kinds, [row for row in rows if any(row.texts[1:])])
