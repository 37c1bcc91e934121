"""Printing lines with aligned columns and colours."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from rich.console import Console as Screen
from rich.text import Text

GAP = "  "
"""Between two columns."""


def aligned(rows: Sequence[Sequence[str | Text]], left: Collection[int] = ()) -> list[Text]:
    """Rows as lines with aligned columns. Columns are aligned right, those in ``left`` to the left."""
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [_line(row, widths, left) for row in rows]


def _line(row: Sequence[str | Text], widths: Sequence[int], left: Collection[int]) -> Text:
    line = Text()
    for column, value in enumerate(row):
        space = " " * (widths[column] - _width(value))
        line = line.append(GAP) if column else line
        for part in (value, space) if column in left else (space, value):
            line.append(part)
    line.rstrip()
    return line


def _width(value: str | Text) -> int:
    return value.cell_len if isinstance(value, Text) else Text(value).cell_len


def screen_of(stream: TextIO) -> Screen:
    """A rich console for a stream: in colour on a terminal, unless ``NO_COLOR`` is set."""
    colours = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Screen(file=stream, highlight=False, soft_wrap=True, **colours)  # type: ignore[arg-type]


def print_lines(lines: Iterable[str | Text], stream: TextIO) -> None:
    """Print lines without wrapping them."""
    screen = screen_of(stream)
    for line in lines:
        screen.print(Text(line) if isinstance(line, str) else line, soft_wrap=True, end="\n")


def can_show(text: str, encoding: str | None) -> bool:
    """Whether an encoding has all characters of a text."""
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
