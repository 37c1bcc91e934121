import logging
import sys

import pytest
from views import cell, progress

from pipeline.terminal import console as module
from pipeline.terminal.console import Console

logger = logging.getLogger("pipeline.of_the_test")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "digits.log"


PARTS = {"one": progress(), "two": progress()}
HALF = progress(cell(complete=2, pruned=2, running=2, epoch=3, best=0.5))
DONE = progress(cell(2, complete=4, pruned=5, best=0.9), cell(4, complete=1, failed=9, budget=9, best=0.8))


def test_off_a_terminal_a_search_is_said_in_lines_and_so_is_each_cell_at_its_end(clock, log, capsys):
    console = Console(log, "digits", PARTS)
    console.progressed("one", progress())
    assert capsys.readouterr().err == "", "nothing runs yet"
    clock[0] += 10
    console.progressed("one", HALF)
    console.progressed("one", HALF)
    said = capsys.readouterr().err
    assert said == (
        "one: 4/9 trials (44%), 2 pruned, 2 running in epoch 4/9, best accuracy 0.5000, 10 s, 28 trials/min, "
        "about 9.3 s left\n"
    )
    console.progressed("one", DONE)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("one: 10/18 trials (56%), 5 pruned, 9 failed, best accuracy 0.9000")
    assert lines[1] == "one: rank 2, svd: 9/9 trials, 5 pruned, best accuracy 0.9000"
    assert lines[2].endswith("no more are tried, because as many have failed")
    assert log.read_text().count("\n") == 4


def test_a_search_that_was_done_before_is_said_to_be(capsys):
    with Console() as console:
        console.progressed("one", progress(cell(complete=9, best=0.5)))
    assert capsys.readouterr().err == "one: 9/9 trials are stored, none is left to train\n"


def test_rate_and_time_left_count_this_runs_trials_and_parts_of_running_ones(clock):
    console = Console(parts={"one": progress(cell(budget=10)), "two": progress(cell(budget=20))})
    console.progressed("one", progress(cell(budget=20, complete=10)))
    assert console.view().rate is None
    clock[0] += 60
    console.progressed("one", progress(cell(budget=20, complete=14, running=3, epoch=3)))
    view = console.view()
    assert view.rate == pytest.approx(5 / 60)
    assert view.study_left == pytest.approx((20 - 14 - 1 + 20) / view.rate)


def test_trials_of_a_combination_that_failed_take_no_time(clock):
    console = Console(parts={"one": progress(cell(budget=10)), "two": progress(cell(budget=20))})
    console.progressed("one", progress(cell(budget=10, complete=2)))
    console.progressed("two", progress(cell(budget=20)))
    clock[0] += 60
    console.progressed("two", progress(cell(budget=20, complete=5)))
    assert console.view().study_left == pytest.approx(15 * 60 / 5)


def test_a_table_is_drawn_on_a_terminal_and_lines_are_said_above_it(make_screen, log):
    screen = make_screen()
    with Console(log, "digits", {"one": progress()}, screen) as console:
        console.progressed("one", HALF)
        logger.info("a [red]line[/red] with brackets")
        console.progressed("one", progress(cell(complete=9, best=0.5)))
        logger.info("after")
    written = screen.file.getvalue()
    assert "digits: one" in written
    assert "a [red]line[/red] with brackets" in written
    assert written.endswith("\x1b[?25h"), "the cursor is back, and the last line went elsewhere"
    assert "after" in log.read_text()
    assert "\x1b" not in log.read_text()


def test_an_error_gives_the_cursor_and_stderr_back(make_screen):
    screen, stderr = make_screen(), sys.stderr
    console = Console(screen=screen)
    console.progressed("one", HALF)
    with pytest.raises(ZeroDivisionError), console:
        raise ZeroDivisionError
    assert screen.file.getvalue().endswith("\x1b[?25h")
    assert sys.stderr is stderr


def test_it_is_drawn_at_most_four_times_a_second(make_screen):
    screen = make_screen()
    with Console(screen=screen) as console:
        for _ in range(200):
            console.progressed("one", HALF)
    assert screen.file.getvalue().count("best accuracy") <= 4


def test_a_combination_that_fails_leaves_its_table_and_the_next_has_its_own(make_screen):
    screen = make_screen()
    with Console(screen=screen, study="s", parts=PARTS) as console:
        console.progressed("one", HALF)
        console.progressed("two", HALF)
    assert screen.file.getvalue().count("\x1b[?25l") == 2
    assert "✓" not in screen.file.getvalue()


def test_a_second_console_speaks_alone_while_it_lasts(capsys, log):
    with Console():
        with Console(log):
            logger.info("inner")
        logger.info("outer")
    logger.info("after")
    assert capsys.readouterr().err == "inner\nouter\n"
    assert log.read_text().endswith("inner\n")
