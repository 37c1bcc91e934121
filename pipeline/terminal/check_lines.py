"""What ``check`` found, as a list of ticks."""

from collections.abc import Iterable
from typing import TextIO

from rich.text import Text

from pipeline.terminal.text import can_show

SIGNS = {True: "✓", False: "✗"}
WORDS = {True: "ok  ", False: "FAIL"}
"""What stands for the signs off a terminal, and where its encoding lacks them."""


def tick_lines(ticks: Iterable[tuple[str, bool, str]], stream: TextIO) -> list[Text]:
    """A line for each finding, and below a failed one what was found, a line each."""
    signs = SIGNS if stream.isatty() and can_show("".join(SIGNS.values()), stream.encoding) else WORDS
    return [_line(signs[ok], what, ok, said) for what, ok, said in ticks]


def _line(sign: str, what: str, ok: bool, said: str) -> Text:
    line = Text().append(sign, style="green" if ok else "bold red").append(f"  {what}", style="" if ok else "bold")
    return line.append(f": {said}".replace("\n", "\n" + " " * (len(sign) + 2)))
