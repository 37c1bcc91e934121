"""Whether a stream is a terminal that a table can be drawn on."""

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console as Screen


def terminal_of(stream: TextIO) -> "Screen | None":
    """The terminal behind a stream; none where there is none, or one on which no line can be drawn again."""
    if not stream.isatty() or os.environ.get("TERM") in (None, "", "dumb", "unknown"):
        return None
    from pipeline.terminal.text import screen_of  # it brings rich, which plain lines do not need

    return screen_of(stream)
