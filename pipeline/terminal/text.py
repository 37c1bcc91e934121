"""Lines, their columns and colours, for whatever is printed."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from rich.console import Console as Screen
from rich.text import Text

GAP = "  "
"""Between two columns."""


def aligned(rows: Sequence[Sequence[str | Text]], left: Collection[int] = ()) -> list[Text]:
    """Rows as lines of one width a column, numbers to the right; ``left`` are columns that hold words."""
    wide = [max(_width(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [_line(row, wide, left) for row in rows]


def _line(row: Sequence[str | Text], wide: Sequence[int], left: Collection[int]) -> Text:
    line = Text()
    for place, value in enumerate(row):
        space = " " * (wide[place] - _width(value))
        own = (value, space) if place in left else (space, value)
        line = line.append(GAP) if place else line
        for part in own:
            line.append(part)
    line.rstrip()
    return line


def _width(value: str | Text) -> int:
    return value.cell_len if isinstance(value, Text) else Text(value).cell_len


def screen_of(stream: TextIO) -> Screen:
    """A stream as rich writes to it: in colour on a terminal, without any where ``NO_COLOR`` is set."""
    colours = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Screen(file=stream, highlight=False, soft_wrap=True, **colours)  # type: ignore[arg-type]


def print_lines(lines: Iterable[str | Text], stream: TextIO) -> None:
    """Print lines as they are, however wide the terminal is."""
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
