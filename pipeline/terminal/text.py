"""Printing lines with aligned columns and colours."""

import os
from collections.abc import Collection, Iterable
from typing import TextIO

from rich.console import Console as Screen
from rich.text import Text

GAP = "  "
"""Between two columns."""


def aligned(names: Iterable[str], rows: Iterable[Iterable[str | Text]], left: Collection[int] = ()) -> list[Text]:
    """A line with the names of the columns, and a line per row. Columns are aligned right, those in ``left`` left."""
    cells = [[Text(name, style="dim") for name in names]]
    cells += [[Text(cell) if isinstance(cell, str) else cell.copy() for cell in row] for row in rows]
    for index, column in enumerate(zip(*cells, strict=True)):
        width = max(cell.cell_len for cell in column)
        for cell in column:
            cell.align("left" if index in left else "right", width)
    lines = [Text(GAP).join(row) for row in cells]
    for line in lines:
        line.rstrip()
    return lines


def screen_of(stream: TextIO) -> Screen:
    """A rich console for a stream: in colour on a terminal, unless ``NO_COLOR`` is set."""
    colours = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Screen(file=stream, highlight=False, soft_wrap=True, **colours)  # type: ignore[arg-type]


def terminal_of(stream: TextIO) -> Screen | None:
    """The terminal behind a stream; None if it is none, or if its lines cannot be redrawn."""
    if not stream.isatty() or os.environ.get("TERM") in (None, "", "dumb", "unknown"):
        return None
    return screen_of(stream)


def print_lines(lines: Iterable[Text], stream: TextIO) -> None:
    """Print lines without wrapping them."""
    screen = screen_of(stream)
    for line in lines:
        screen.print(line, soft_wrap=True)


def can_show(text: str, encoding: str | None) -> bool:
    """Whether an encoding has all characters of a text."""
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
