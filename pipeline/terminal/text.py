"""Printing lines with aligned columns and colours."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from rich.console import Console as Screen
from rich.text import Text

GAP = "  "
"""Between two columns."""


def aligned(rows: Sequence[Sequence[Text]], left: Collection[int] = ()) -> list[Text]:
    """Rows as lines with aligned columns. Columns are aligned right, those in ``left`` to the left."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.copy() for cell in row]
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            cell.align("left" if column in left else "right", width)
        lines.append(Text(GAP).join(cells))
        lines[-1].rstrip()
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
