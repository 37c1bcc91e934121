"""The live table of a search at the foot of a terminal."""

import time
from collections.abc import Callable

from rich.console import Console as Screen
from rich.console import Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from pipeline.terminal.live_table import SIGNS, View, board
from pipeline.terminal.text import can_show

SOONEST = 0.25
"""The least seconds between two drawings."""
TICK = 1.0
"""Seconds after which the table is drawn again in any case, because time passes and terminals are resized."""


class LiveBoard:
    """The table of a view at the foot of a terminal; lines are printed above it."""

    def __init__(self, screen: Screen, view: Callable[[], View]) -> None:
        self._screen, self._view = screen, view
        self._plain = not can_show(SIGNS, screen.encoding)
        self._drawn, self._widths, self._last = float("-inf"), list[int](), False
        self._live = Live(console=screen, get_renderable=self._draw, refresh_per_second=1 / TICK, redirect_stdout=False)

    def start(self) -> None:
        self._live.start(refresh=True)

    def refresh(self) -> None:
        """Draw the table again, unless that was done less than ``SOONEST`` ago."""
        if time.monotonic() - self._drawn >= SOONEST:
            self._live.refresh()

    def print_above(self, line: str) -> None:
        self._screen.print(Text(line), soft_wrap=True)

    def stop(self) -> None:
        """Leave the whole table on the screen, and show the cursor again."""
        self._last = True
        try:
            self._live.stop()
        finally:  # a second Ctrl-C may have cut it short
            self._screen.show_cursor(True)

    def _draw(self) -> Group:
        width, height = self._screen.size
        if any(drawn > width for drawn in self._widths):
            self._clear_wrapped(width)
        lines = board(self._view(), width, None if self._last else height, plain=self._plain)
        self._drawn, self._widths = time.monotonic(), [line.cell_len for line in lines]
        return Group(*lines)

    def _clear_wrapped(self, width: int) -> None:
        """Clear the lines that a narrower terminal has wrapped; rich only clears as many lines as it has drawn."""
        wrapped = sum(max(0, -(-drawn // width) - 1) for drawn in self._widths)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * wrapped
        self._screen.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))
