import io

import pytest
from rich.console import Console as Screen
from views import cell, progress, view

from pipeline.terminal.live_table import LiveBoard


def test_a_terminal_that_became_narrower_is_cleared_of_the_lines_that_it_broke(make_screen, monkeypatch):
    monkeypatch.setattr("pipeline.terminal.live_table.SOONEST", 0)
    screen = make_screen(width=80)
    live = LiveBoard(screen, lambda: view(progress()))
    live.start()
    drawn = len(screen.file.getvalue().splitlines())
    screen.file.truncate(0)
    screen.width = 30
    live.refresh()
    ups = screen.file.getvalue().count("\x1b[1A")
    live.stop()
    assert ups > drawn - 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_signs_has_others(encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    screen = Screen(file=file, force_terminal=True, width=80, height=24)
    live = LiveBoard(screen, lambda: view(parts={"a": progress(cell(complete=9))}))
    live.start()
    live.stop()
    file.flush()
    assert b"----------" in file.buffer.getvalue()
