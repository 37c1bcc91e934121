"""Printing lines with aligned columns and colours."""

import io
import os
import sys
from collections.abc import Collection, Iterable
from typing import TextIO

from rich.console import Console as Screen
from rich.text import Text

GAP = "  "
"""Between two columns."""
NARROWEST = 20
"""Columns of the narrowest terminal that the variable ``COLUMNS`` can mean."""


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


class _Screen(Screen):
    """A console that leaves a pipe without a reader to its caller, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def screen_of(stream: TextIO) -> Screen:
    """A rich console for a stream: in colour on a terminal, unless ``NO_COLOR`` is set."""
    colours = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return _Screen(file=stream, highlight=False, soft_wrap=True, **colours)  # type: ignore[arg-type]


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


def make_printable() -> None:
    """Let stdout and stderr take any text, as escapes what their encoding lacks, at a width that shows something.

    Streams that are closed take everything and show nothing.
    """
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns) < NARROWEST:
        del os.environ["COLUMNS"]
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        elif stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def can_show(text: str, encoding: str | None) -> bool:
    """Whether an encoding has all characters of a text."""
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
