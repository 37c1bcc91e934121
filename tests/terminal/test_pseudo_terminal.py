"""Real runs in a pseudo-terminal."""

import re
import signal
from pathlib import Path

from command import write_study
from pseudo import run_in_terminal

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def plain(text):
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


def test_a_run_draws_a_table_for_each_combination_and_gives_the_cursor_back():
    write_study(trials=3)
    code, written = run_in_terminal("run", "tiny", "--device", "cpu", height=20)
    assert code == 0, written
    assert "Traceback" not in written
    assert written.count(HIDE) == 2
    assert written.rindex(SHOW) > written.rindex(HIDE)
    last = plain(written[written.rindex(HIDE) :])
    assert "✓ int1-lora" in last
    assert "tiny: sparse-lora" in last
    assert len(re.findall(r"━{10} +3/3", last)) >= 4
    assert "int1-lora: 12/12 trials (100%)" in Path("storage/logs/tiny.log").read_text()
    assert "\x1b" not in Path("storage/logs/tiny.log").read_text()

    code, written = run_in_terminal("run", "tiny", "--device", "cpu")
    assert code == 0
    assert HIDE not in written, "nothing is searched, so no table is drawn"
    assert "int1-lora: 12/12 trials are stored, none is left to train" in written
    assert "testing" not in written

    code, written = run_in_terminal("status", "tiny", "--watch")
    assert code == 0
    assert written.rindex(SHOW) > written.rindex(HIDE)
    assert "12/12" in plain(written)


def once(word):
    """Sends SIGINT, as Ctrl-C does, when a word is seen for the first time."""
    sent = []

    def send(written, process):
        if word in plain(written) and not sent:
            sent.append(process.send_signal(signal.SIGINT))

    return send


def test_ctrl_c_leaves_the_table_and_gives_the_cursor_back():
    write_study(epochs=100_000)
    code, written = run_in_terminal("run", "tiny", "--device", "cpu", when=once("2/100000"))
    assert code == 130
    assert HIDE in written
    assert "Traceback" not in written
    after = written[written.rindex(SHOW) :]
    assert "stopped: interrupted by SIGINT" in after
    assert "To resume: restora run tiny --device cpu" in plain(after).replace("\r\n", "")

    code, written = run_in_terminal("status", "tiny", "--watch", when=once("no run is active"))
    assert code == 130
    assert written.rindex(SHOW) > written.rindex(HIDE)
    assert "Traceback" not in written
    assert "0/8" in plain(written)


def test_no_colour_where_it_is_not_wanted():
    write_study()
    code, written = run_in_terminal("check", "tiny")
    assert code == 0
    assert "\x1b[32m✓" in written
    code, written = run_in_terminal("check", "tiny", NO_COLOR="1")
    assert "\x1b" not in written
    assert "✓  study file is valid" in written
